"""Frameworks that speak the realtime protocol: each holds a whole spoken turn."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from omni_runtime.wav import pcm16
from server.running import NAME, Running

RATE = 24_000
FRAME = RATE // 50
ANSWER = "Seven plus five is twelve."

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def frames(recording: Callable) -> list[bytes]:
    def pause(seconds: float) -> np.ndarray:
        return np.zeros(round(seconds * RATE), np.float32)

    samples = np.concatenate([pause(0.5), recording("seven_plus_five", RATE), pause(1.5)])
    return [pcm16(samples[i : i + FRAME]) for i in range(0, len(samples), FRAME)]


def test_openai_agents(server: Running, recording: Callable) -> None:
    realtime = pytest.importorskip("agents.realtime")

    async def talk() -> tuple[str, int]:
        runner = realtime.RealtimeRunner(realtime.RealtimeAgent(name="A"))
        url = f"ws://127.0.0.1:{server.port}/v1/realtime?model={NAME}"
        session = await runner.run(model_config={"url": url, "api_key": "none"})
        text, heard = "", 0

        async def speak() -> None:
            for frame in frames(recording):
                await session.send_audio(frame)
                await asyncio.sleep(0.005)

        async with session:
            speaking = asyncio.create_task(speak())
            async for event in session:
                assert event.type != "error", event
                if event.type == "audio":
                    heard += len(event.audio.data)
                raw = getattr(event, "data", None)
                if getattr(raw, "type", "") == "transcript_delta":
                    text += raw.delta
                if getattr(raw, "type", "") == "turn_ended":
                    break
            await speaking
        return text, heard

    text, heard = asyncio.run(asyncio.wait_for(talk(), 60))
    assert text == ANSWER and heard > RATE


def test_pipecat(server: Running, recording: Callable) -> None:
    pytest.importorskip("pipecat")
    from pipecat.frames import frames as kinds  # noqa: PLC0415
    from pipecat.pipeline.pipeline import Pipeline  # noqa: PLC0415
    from pipecat.pipeline.runner import PipelineRunner  # noqa: PLC0415
    from pipecat.pipeline.task import PipelineTask  # noqa: PLC0415
    from pipecat.processors.frame_processor import FrameProcessor  # noqa: PLC0415
    from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService  # noqa: PLC0415

    found: dict[str, int | str | list] = {"text": "", "bytes": 0, "errors": []}
    done = asyncio.Event()

    class Listener(FrameProcessor):
        async def process_frame(self, frame, direction) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, kinds.TTSTextFrame):
                found["text"] += frame.text
            if isinstance(frame, kinds.TTSAudioRawFrame):
                found["bytes"] += len(frame.audio)
            if isinstance(frame, kinds.ErrorFrame):
                found["errors"].append(frame.error)  # type: ignore[union-attr]
                done.set()
            if isinstance(frame, kinds.TTSStoppedFrame):
                done.set()
            await self.push_frame(frame, direction)

    async def talk() -> None:
        url = f"ws://127.0.0.1:{server.port}/v1/realtime"
        service = OpenAIRealtimeLLMService(api_key="none", base_url=url)
        task = PipelineTask(Pipeline([service, Listener()]))
        running = asyncio.create_task(PipelineRunner(handle_sigint=False).run(task))
        from pipecat.processors.aggregators.llm_context import LLMContext  # noqa: PLC0415

        await task.queue_frames([kinds.LLMContextFrame(LLMContext([]))])
        for frame in frames(recording):
            await task.queue_frame(kinds.InputAudioRawFrame(frame, RATE, 1))
            await asyncio.sleep(0.005)
        await asyncio.wait_for(done.wait(), 40)
        await task.cancel()
        await running

    asyncio.run(asyncio.wait_for(talk(), 60))
    assert not found["errors"] and found["text"].strip() == ANSWER and found["bytes"] > RATE // 2

package org.pocketomni.app.presenters

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.pocketomni.engine.MediaError
import java.io.File
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

class SoundTest {
    private val ended = LinkedBlockingQueue<List<Throwable?>>()
    private val speaker = FakeSpeaker()
    private val player = SpeechPlayer(speaker) { ended.add(listOf(it)) }

    private fun end(): Throwable? = ended.poll(10, TimeUnit.SECONDS)!!.single()

    @Test
    fun playsEverythingAndCountsIt() {
        player.add(FloatArray(24_000), 24_000)
        player.add(FloatArray(12_001), 24_000)
        player.end()
        assertNull(end())
        assertEquals(36_001 / 24_000.0, player.heardSeconds, 1e-9)
        assertTrue(speaker.devices.single().closed)
    }

    @Test
    fun aStopCountsWhatWasHeardAndNotWhatWasWritten() {
        speaker.playable = 6_000
        player.add(FloatArray(24_000), 24_000)
        while (speaker.devices.firstOrNull()?.written != 24_000L) Thread.sleep(1)
        assertEquals(0.25, player.stop(), 1e-9)
        player.add(FloatArray(24_000), 24_000)
        assertNull(end())
        assertEquals("later samples are dropped", 24_000L, speaker.devices.single().written)
        assertEquals(0.25, player.heardSeconds, 1e-9)
    }

    @Test
    fun waitsUntilTheLastSampleWasHeard() {
        speaker.playable = 0
        player.add(FloatArray(2400), 24_000)
        player.end()
        assertNull("it still plays", ended.poll(100, TimeUnit.MILLISECONDS))
        speaker.playable = 2400
        assertNull(end())
    }

    @Test
    fun aReplyWithoutSpeechEndsAtOnce() {
        player.end()
        assertNull(end())
        assertEquals(0, speaker.devices.size)
    }

    @Test
    fun aDeviceThatCannotBeOpenedIsReported() {
        speaker.failure = NoticeException(NoticeKey.AUDIO_FAILED, "busy")
        player.add(FloatArray(10), 24_000)
        assertEquals(speaker.failure, end())
    }

    @Test
    fun theBufferKeepsTheLastSamples() {
        val buffer = SampleBuffer(5)
        for (start in 0 until 12 step 3) buffer.add(FloatArray(3) { (start + it).toFloat() })
        assertArrayEquals(floatArrayOf(7f, 8f, 9f, 10f), buffer.range(7, 11), 0f)
        assertArrayEquals("older ones are gone", floatArrayOf(6f, 7f), buffer.range(0, 8), 0f)
        assertEquals(0, buffer.range(12, 20).size)
    }

    @Test
    fun wavFilesKeepSamples() {
        val file = File(temporaryFolder(), "a.wav")
        val samples = FloatArray(1000) { Math.sin(it * 0.1).toFloat() }
        WavFile.write(file, samples, 16_000)
        val read = WavFile.read(file)
        assertEquals(16_000, read.rate)
        assertArrayEquals(samples, read.samples, 1.1f / 32768)
        file.writeBytes(file.readBytes().copyOf(20))
        assertThrows(MediaError::class.java) { WavFile.read(file) }
    }

    @Test
    fun theLevelIsInDecibels() {
        assertEquals(1f, CallPresenter.level(floatArrayOf(1f, -1f)), 1e-6f)
        assertEquals(0.5f, CallPresenter.level(FloatArray(100) { 0.0316228f }), 1e-4f)
        assertEquals(0f, CallPresenter.level(FloatArray(100)), 0f)
    }
}

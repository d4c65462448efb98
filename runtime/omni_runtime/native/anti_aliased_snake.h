// BigVGAN's activation in one pass: upsample by 2, x + sin(alpha x)^2 / beta, downsample by 2, each
// with a low-pass filter. As ONNX operators each step is a separate pass over memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ort.h"

class AntiAliasedSnake {
 public:
  static constexpr const char* kName = "AntiAliasedSnake";
  static constexpr ort::ElementType kOutputs[] = {ort::kFloat};
  // x (1, channels, time); alpha, 1 / beta (channels, 1, 1); filters (2, 1, 7) and (1, 2, 7)
  static constexpr ort::ElementType kInputs[] = {ort::kFloat, ort::kFloat, ort::kFloat, ort::kFloat,
                                                 ort::kFloat};

  explicit AntiAliasedSnake(const void*) {}

  void run(const ort::Context& context) const {
    const auto shape = context.shape(0);
    ort::require(shape.size() == 3 && shape[0] == 1, "x must be (1, channels, time)");
    const auto channels = static_cast<size_t>(shape[1]);
    const int64_t time = shape[2];
    const float* x = context.input<float>(0);
    const float* alpha = context.input<float>(1, shape[1], "alpha must have one value a channel");
    const float* beta = context.input<float>(2, shape[1], "beta must have one value a channel");
    const float* up = context.input<float>(3, 2 * kTaps, "the filters must have 2 x 7 taps");
    const float* down = context.input<float>(4, 2 * kTaps, "the filters must have 2 x 7 taps");
    float* y = context.output<float>(0, shape);
    context.parallel(channels, [=](size_t c) {
      for (int64_t start = 0; start < time; start += kTile) {
        tile(x + c * time, time, start, alpha[c], beta[c], up, down, y + c * time);
      }
    });
  }

 private:
  static constexpr int kTaps = 7;
  static constexpr int kReach = 3;  // radius of both filters in samples
  static constexpr int kTile = 512;
  static constexpr int kDoubled = kTile + 2 * kReach;

  // sin(v)^2 with a polynomial for sin on [-pi / 2, pi / 2]; its period is pi.
  static inline float squared_sine(float v) {
    const float turns = std::rint(v * 0.318309886f);
    const float r = (v - turns * 3.140625f) - turns * 9.67653589793e-4f;  // pi in two parts
    const float s = r * r;
    const float sine =
        r * (1.0f + s * (-0.166666657f +
                         s * (8.33330080e-3f + s * (-1.98399059e-4f + s * 2.71830141e-6f))));
    return sine * sine;
  }

  // Computes samples start ... start + kTile of one channel. x and the upsampled signal are padded
  // with their first and last samples.
  static void tile(const float* x, int64_t time, int64_t start, float alpha, float beta,
                   const float* up, const float* down, float* y) {
    float near[kDoubled + 2 * kReach];
    float even[kDoubled], odd[kDoubled];
    const int count = static_cast<int>(std::min<int64_t>(kTile, time - start));
    const int doubled = count + 2 * kReach;
    const int64_t first = start - 2 * kReach;
    const int wanted = doubled + 2 * kReach;
    if (first >= 0 && first + wanted <= time) {
      std::memcpy(near, x + first, wanted * sizeof(float));
    } else {
      for (int t = 0; t < wanted; t++) {
        near[t] = x[std::clamp<int64_t>(first + t, 0, time - 1)];
      }
    }
    for (int t = 0; t < doubled; t++) {
      float e = 0, o = 0;
      for (int k = 0; k < kTaps; k++) {
        e += up[k] * near[t + k];
        o += up[kTaps + k] * near[t + k];
      }
      even[t] = e + beta * squared_sine(alpha * e);
      odd[t] = o + beta * squared_sine(alpha * o);
    }
    for (int64_t t = start - kReach; t < 0; t++) {
      even[t - start + kReach] = odd[t - start + kReach] = even[kReach - start];
    }
    for (int64_t t = time; t < start + count + kReach; t++) {
      even[t - start + kReach] = odd[t - start + kReach] = odd[time - 1 - start + kReach];
    }
    for (int t = 0; t < count; t++) {
      float sum = 0;
      for (int k = 0; k < kTaps; k++) sum += down[k] * even[t + k] + down[kTaps + k] * odd[t + k];
      y[start + t] = sum;
    }
  }
};

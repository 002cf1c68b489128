#include "models/rope.h"

#include <cmath>
#include <numbers>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/elementwise.h"

namespace purekv {
namespace {

// 1 / theta^(exponent) in f32, the order of operations of the reference (torch.float32).
float InverseFrequency(double theta, int64_t numerator, int64_t denominator) {
  const float exponent = static_cast<float>(numerator) / static_cast<float>(denominator);
  return 1.0F / static_cast<float>(std::pow(static_cast<float>(theta), exponent));
}

// As transformers' _compute_llama3_parameters, in f32.
float Llama3Frequency(float frequency, const RopeScaling& scaling) {
  const auto factor = static_cast<float>(scaling.factor), low = static_cast<float>(scaling.low_factor),
             high = static_cast<float>(scaling.high_factor), original = static_cast<float>(scaling.original);
  const float wave = 2 * std::numbers::pi_v<float> / frequency;
  if (wave > original / low) return frequency / factor;
  if (wave < original / high) return frequency;
  const float smooth = (original / wave - low) / (high - low);
  return (1 - smooth) * (frequency / factor) + smooth * frequency;
}

int32_t OnAxis(const Position& position, uint8_t axis) {
  return axis == 0 ? position.t : axis == 1 ? position.h : position.w;
}

}  // namespace

RopeSpec SectionedRope(int64_t head_dim, double theta, std::span<const int64_t> sections) {
  RopeSpec spec;
  PUREKV_CHECK(sections.size() == 3, sections.size());
  for (size_t section = 0; section < 3; ++section) {
    spec.axis.insert(spec.axis.end(), static_cast<size_t>(sections[section]), static_cast<uint8_t>(section));
  }
  PUREKV_CHECK(static_cast<int64_t>(spec.axis.size()) == head_dim / 2, spec.axis.size(), " pairs for head_dim ",
               head_dim);
  for (int64_t f = 0; f < head_dim / 2; ++f) spec.inv_freq.push_back(InverseFrequency(theta, 2 * f, head_dim));
  return spec;
}

RopeSpec InterleavedRope(int64_t head_dim, double theta, std::span<const int64_t> sections) {
  RopeSpec spec = SectionedRope(head_dim, theta, sections);
  for (int64_t f = 0; f < head_dim / 2; ++f) {
    const int64_t axis = f % 3;
    const bool lasts = f < 3 * sections[static_cast<size_t>(axis)];
    spec.axis[static_cast<size_t>(f)] = lasts ? static_cast<uint8_t>(axis) : 0;
  }
  return spec;
}

RopeSpec PlainRope(int64_t head_dim, double theta, const RopeScaling& scaling) {
  RopeSpec spec;
  spec.axis.assign(static_cast<size_t>(head_dim / 2), 0);
  for (int64_t f = 0; f < head_dim / 2; ++f) spec.inv_freq.push_back(InverseFrequency(theta, 2 * f, head_dim));
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone:
      break;
    case RopeScaling::Kind::kLinear:
      for (float& one : spec.inv_freq) one /= static_cast<float>(scaling.factor);
      break;
    case RopeScaling::Kind::kLlama3:
      for (float& one : spec.inv_freq) one = Llama3Frequency(one, scaling);
      break;
    case RopeScaling::Kind::kFactors:
      PUREKV_CHECK(scaling.factors.size() == spec.inv_freq.size(), scaling.factors.size(), " factors");
      for (size_t f = 0; f < spec.inv_freq.size(); ++f) spec.inv_freq[f] /= scaling.factors[f];
      break;
  }
  return spec;
}

RopeSpec VisionRope(int64_t head_dim) {
  RopeSpec spec;
  for (uint8_t axis = 1; axis <= 2; ++axis) {
    for (int64_t j = 0; j < head_dim / 4; ++j) {
      spec.inv_freq.push_back(InverseFrequency(10000.0, 2 * j, head_dim / 2));
      spec.axis.push_back(axis);
    }
  }
  return spec;
}

void RopeTables(const RopeSpec& spec, std::span<const Position> positions, MatrixView<float> cos,
                MatrixView<float> sin) {
  const auto count = static_cast<int64_t>(positions.size());
  const int64_t pairs = spec.pairs();
  PUREKV_CHECK(cos.rows == count && sin.rows == count && cos.cols == pairs && sin.cols == pairs, cos.rows, " x ",
               cos.cols);
  ParallelForRanges(count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Position& position = positions[static_cast<size_t>(i)];
      for (int64_t f = 0; f < pairs; ++f) {
        const auto index = static_cast<size_t>(f);
        cos.Row(i)[f] = static_cast<float>(OnAxis(position, spec.axis[index])) * spec.inv_freq[index];
      }
    }
    const MatrixView<float> angles = cos.Rows(begin, end - begin);
    CosSin(angles, angles, sin.Rows(begin, end - begin));
  });
}

}  // namespace purekv

// Which weights share a scale, in layers of compressed-tensors and fp8: as the configuration says, where it says
// something, and as the shape of the scales has it.
#include <array>

#include "base/error.h"
#include "checkpoint/quantised_layer.h"

namespace purekv {
namespace {

int64_t Parts(int64_t whole, int64_t size) {
  return (whole + size - 1) / size;
}

// What a scheme wants of scales, and of their shape. A single number has many shapes.
struct Wanted {
  std::array<int64_t, 2> block;
  Shape shape;
};

std::optional<Wanted> WantedBy(const WeightScheme& scheme, int64_t out, int64_t in) {
  switch (scheme.strategy) {
    case ScaleStrategy::kTensor:
      return Wanted{{out, in}, {1}};
    case ScaleStrategy::kChannel:
      return Wanted{{1, in}, {out, 1}};
    case ScaleStrategy::kGroup:
      if (in % scheme.group != 0) return std::nullopt;
      return Wanted{{1, scheme.group}, {out, in / scheme.group}};
    case ScaleStrategy::kBlock:
      return Wanted{scheme.block, {Parts(out, scheme.block[0]), Parts(in, scheme.block[1])}};
    case ScaleStrategy::kAny:
      return std::nullopt;
  }
  __builtin_unreachable();
}

std::optional<std::array<int64_t, 2>> BlockOf(const WeightScheme& scheme, const Shape& scales, int64_t out,
                                              int64_t in) {
  const bool one = ElementCount(scales) == 1;
  const bool per_output = scales == Shape{out, 1} || scales == Shape{out};
  const std::optional<Wanted> wanted = WantedBy(scheme, out, in);
  if (wanted && scales == wanted->shape) return wanted->block;
  const ScaleStrategy strategy = scheme.strategy;
  const bool any = strategy == ScaleStrategy::kAny;
  // fp8 has a scalar where a layer was not cut into blocks.
  if (one && (any || strategy == ScaleStrategy::kTensor || strategy == ScaleStrategy::kBlock)) return {{out, in}};
  if (per_output && (any || strategy == ScaleStrategy::kChannel)) return {{1, in}};
  if (any && scales.size() == 2 && scales[0] == out && scales[1] > 0 && in % scales[1] == 0) {
    return {{1, in / scales[1]}};
  }
  return std::nullopt;
}

std::string Said(const WeightScheme& scheme) {
  if (scheme.strategy == ScaleStrategy::kGroup) return StrCat(" in groups of ", scheme.group);
  if (scheme.strategy == ScaleStrategy::kBlock)
    return StrCat(" in blocks of ", scheme.block[0], " x ", scheme.block[1]);
  return "";
}

}  // namespace

std::string ScalePart(const LayerParts& parts) {
  return parts.Find("weight_scale_inv") ? "weight_scale_inv" : "weight_scale";
}

std::array<int64_t, 2> ScaleBlock(const LayerParts& parts, const std::string& part, const std::string& what,
                                  int64_t out, int64_t in, const std::vector<const WeightScheme*>& wanted) {
  const RawTensor scales = parts.NeedScales(part);
  for (const WeightScheme* scheme : wanted) {
    if (const auto block = BlockOf(*scheme, scales.shape, out, in)) return *block;
  }
  const WeightScheme& first = *wanted.front();
  if (const auto asked = WantedBy(first, out, in)) parts.CheckShape(part, what + Said(first), asked->shape);
  if (first.strategy == ScaleStrategy::kGroup) {
    Fail(parts.Where(parts.main()), " has ", in, " inputs, no multiple of the groups of ", first.group, " of ",
         parts.config().where);
  }
  Fail(parts.Where(part), " has shape ", ShapeName(scales.shape), "; ", what, " needs [1], [", out, ", 1] or [", out,
       ", groups], and for blocks weight_block_size in the configuration");
}

}  // namespace purekv

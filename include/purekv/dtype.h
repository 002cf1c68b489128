// Number formats: of activations and stored tensors, of weights as they are packed, of the KV cache. Three types,
// because each has forms that the others lack.
#pragma once

#include <cstddef>
#include <cstdint>

namespace purekv {

// Of activations, and of tensors as files hold them.
enum class Dtype : uint8_t { kF32, kBF16, kF16 };

// Of packed weights.
enum class WeightFormat : uint8_t { kF32, kBF16 };

// Of keys and values in the cache.
enum class KvFormat : uint8_t { kF32, kBF16 };

// No default in these: a format that is added is missed by the compiler in each of them.
constexpr size_t DtypeSize(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return 4;
    case Dtype::kBF16:
    case Dtype::kF16:
      return 2;
  }
  __builtin_unreachable();
}
constexpr const char* DtypeName(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return "f32";
    case Dtype::kBF16:
      return "bf16";
    case Dtype::kF16:
      return "f16";
  }
  __builtin_unreachable();
}
// What packed weights are rounded to, where they are plain numbers.
constexpr Dtype ElementDtype(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return Dtype::kF32;
    case WeightFormat::kBF16:
      return Dtype::kBF16;
  }
  __builtin_unreachable();
}
constexpr const char* FormatName(WeightFormat format) {
  return DtypeName(ElementDtype(format));
}
// What an element of the cache is to arithmetic.
constexpr Dtype ElementDtype(KvFormat format) {
  switch (format) {
    case KvFormat::kF32:
      return Dtype::kF32;
    case KvFormat::kBF16:
      return Dtype::kBF16;
  }
  __builtin_unreachable();
}
// The cache's form of activations that are kept as they are (f32, bf16).
constexpr KvFormat FormatOf(Dtype dtype) {
  return dtype == Dtype::kF32 ? KvFormat::kF32 : KvFormat::kBF16;
}
constexpr const char* FormatName(KvFormat format) {
  return DtypeName(ElementDtype(format));
}

// In which form weights are kept in memory.
enum class WeightRequest : uint8_t {
  kStored,  // as the files have them: codes stay codes where there are kernels for them, plain numbers stay numbers
  kPlain,   // numbers of the activations' type; codes are expanded
  kInt8,    // plain numbers are quantised while they are loaded: 8 bits, a scale per output
  kInt4     // the same with 4 bits, a scale and a zero point per output and group of inputs
};

constexpr const char* RequestName(WeightRequest request) {
  switch (request) {
    case WeightRequest::kStored:
      return "auto";
    case WeightRequest::kPlain:
      return "bf16";
    case WeightRequest::kInt8:
      return "int8";
    case WeightRequest::kInt4:
      return "int4";
  }
  __builtin_unreachable();
}

// What many rows of activations (a prefill's) are rounded to before they are multiplied with codes.
enum class RowRequest : uint8_t {
  kStored,  // 8 bits where a checkpoint was made for that and activations are bf16, else as kPlain
  kPlain,   // nothing: the activations' type
  kInt8     // 8 bits, a scale per row; not of the head, and of the feed-forward's last product only with a checkpoint
            // that was made for it, since single inputs of that product may be far larger than the others
};

// What of a model is kept how. A checkpoint that is quantised already is never quantised again.
struct WeightOptions {
  WeightRequest request = WeightRequest::kStored;
  // Of kInt4: inputs that share a scale, 32, 64 or 128. A layer whose inputs are no multiple of it stays plain.
  int64_t group = 64;
  bool int8_head = true;     // of kInt8 and kInt4: the language-model head has 8 bits; else it stays plain
  bool int8_down = false;    // of kInt4: the feed-forward's last product has 8 bits (llama.cpp gives half of them 6)
  bool int8_vision = false;  // tower and connector have 8 bits
  RowRequest rows = RowRequest::kStored;
  friend bool operator==(const WeightOptions&, const WeightOptions&) = default;
};

// What a loaded model works with.
struct NumberFormats {
  Dtype activations = Dtype::kF32;  // f32 or bf16
  WeightFormat weights = WeightFormat::kF32;
  KvFormat cache = KvFormat::kF32;
  WeightOptions quantisation{};
  // What `rows` of the options comes to for the model: of its decoder's products, and of the feed-forward's last one.
  bool int8_rows = false;
  bool int8_down_rows = false;

  // All three alike.
  static constexpr NumberFormats Of(Dtype dtype) {
    return {dtype, dtype == Dtype::kF32 ? WeightFormat::kF32 : WeightFormat::kBF16, FormatOf(dtype), {}, false, false};
  }
};

}  // namespace purekv

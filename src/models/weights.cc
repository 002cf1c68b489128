#include "models/weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/elementwise.h"

namespace purekv {
namespace {

// An exponent of all ones: infinite or NaN.
template <class Bits>
bool AnyNotFinite(const char* data, int64_t count, Bits exponent) {
  bool bad = false;
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, data + i * static_cast<int64_t>(sizeof(Bits)), sizeof(Bits));
    bad |= static_cast<Bits>(bits & exponent) == exponent;
  }
  return bad;
}

// Tensors of at least so many bytes are given back while they are read, in pieces: beside the head of a 7B model in 4
// bits its pages in the file would be a gigabyte more.
constexpr size_t kLargeTensor = size_t{64} << 20;

// A single infinite weight may hide behind a softmax and change an answer silently, so no matrix is taken unseen.
void CheckFinite(const TensorSource& source, const std::string& name, const TensorData& tensor) {
  constexpr int64_t kGrain = int64_t{1} << 18;
  const int64_t count = ElementCount(tensor.info.shape);
  if (tensor.reader != nullptr) {
    if (tensor.reader->CheckFinite()) return;
    // Whatever its form, it is expanded as it will be when it is packed.
    const int64_t rows = tensor.info.shape.front();
    const int64_t columns = count / rows;
    ParallelForRanges(rows, std::max<int64_t>(1, kGrain / columns), [&](int64_t begin, int64_t end) {
      std::vector<float> row(static_cast<size_t>(columns));
      for (int64_t i = begin; i < end; ++i) {
        tensor.reader->Read(i, 1, row.data());
        if (AnyNotFinite<uint32_t>(reinterpret_cast<const char*>(row.data()), columns, 0x7f800000U)) {
          Fail(source.Describe(name), ": tensor ", name, " holds NaN or infinity; weights must be finite");
        }
      }
    });
    return;
  }
  const auto* data = reinterpret_cast<const char*>(tensor.bytes.data());
  const auto size = static_cast<int64_t>(DtypeSize(tensor.info.dtype));
  const int64_t rows = tensor.info.shape.front();
  const bool large = tensor.bytes.size() >= kLargeTensor;
  const int64_t row = std::max<int64_t>(1, count / rows);
  const int64_t grain = large ? (kGrain + row - 1) / row * row : kGrain;
  ParallelForRanges(count, grain, [&](int64_t begin, int64_t end) {
    const char* from = data + begin * size;
    const bool bad = tensor.info.dtype == Dtype::kF32    ? AnyNotFinite<uint32_t>(from, end - begin, 0x7f800000U)
                     : tensor.info.dtype == Dtype::kBF16 ? AnyNotFinite<uint16_t>(from, end - begin, 0x7f80U)
                                                         : AnyNotFinite<uint16_t>(from, end - begin, 0x7c00U);
    if (bad) Fail(source.Describe(name), ": tensor ", name, " holds NaN or infinity; weights must be finite");
    if (large) source.ReleaseRows(name, begin / row, (end - begin) / row);
  });
}

// A large tensor of plain numbers that is quantised while it is loaded, some rows after others: those that have been
// read are given back.
class LargeTensorRows final : public RowReader {
 public:
  LargeTensorRows(const TensorSource& source, std::string name, TensorData tensor)
      : source_(source), name_(std::move(name)), tensor_(std::move(tensor)) {}

  void Read(int64_t first, int64_t count, float* out) const override {
    ReadRows(tensor_, first, count, out);
    int64_t released = released_.load(std::memory_order_relaxed);
    const int64_t behind = first - kInUse;
    if (behind - released < kInUse || !released_.compare_exchange_strong(released, behind)) return;
    source_.ReleaseRows(name_, released, behind - released);
  }
  std::string format() const override { return DtypeName(tensor_.info.dtype); }

 private:
  static constexpr int64_t kInUse = 512;  // as many are quantised at a time; one that is read again costs time only

  const TensorSource& source_;
  std::string name_;
  TensorData tensor_;
  mutable std::atomic<int64_t> released_ = 0;
};

}  // namespace

void CheckTensors(const TensorSource& source, const std::vector<TensorSpec>& specs, const std::string& where) {
  std::string missing;
  int count = 0;
  for (const TensorSpec& spec : specs) {
    const auto info = source.Find(spec.name);
    if (!info) {
      if (++count <= 5) missing += (count > 1 ? ", " : "") + spec.name;
      continue;
    }
    if (info->shape != spec.shape) {
      Fail(source.Describe(spec.name), ": ", source.ShapeFault(spec.name, spec.shape));
    }
    source.Quantised(spec.name);  // checks the parts of one against each other
  }
  if (count > 0) {
    Fail(where, ": ", count, " of ", specs.size(), " tensors are missing: ", missing, count > 5 ? ", ..." : "");
  }
}

int64_t ParameterCount(const std::vector<TensorSpec>& specs) {
  int64_t total = 0;
  for (const TensorSpec& spec : specs) total += ElementCount(spec.shape);
  return total;
}

void ReadRows(const TensorData& tensor, int64_t first, int64_t count, float* out) {
  if (tensor.reader != nullptr) return tensor.reader->Read(first, count, out);
  const int64_t columns = ElementCount(tensor.info.shape) / tensor.info.shape.front();
  const size_t offset = static_cast<size_t>(first * columns) * DtypeSize(tensor.info.dtype);
  ToFloats(tensor.bytes.data() + offset, tensor.info.dtype, count * columns, out);
}

std::vector<float> ReadFloats(const TensorSource& source, const std::string& name) {
  const TensorData tensor = source.Read(name);
  std::vector<float> values(static_cast<size_t>(ElementCount(tensor.info.shape)));
  ReadRows(tensor, 0, tensor.info.shape.front(), values.data());
  for (const float value : values) {
    if (!std::isfinite(value))
      Fail(source.Describe(name), ": tensor ", name, " holds ", value, "; weights must be finite");
  }
  source.Release(name);
  return values;
}

LayerFormat FormatOf(const NumberFormats& formats, WeightRole role) {
  const WeightOptions& options = formats.quantisation;
  LayerFormat format(formats.weights, options.request, options.group);
  const bool on_load = options.request == WeightRequest::kInt8 || options.request == WeightRequest::kInt4;
  switch (role) {
    case WeightRole::kProduct:
      format.int8_rows = formats.int8_rows;
      break;
    case WeightRole::kDown:
      format.int8_rows = formats.int8_down_rows;
      if (on_load && options.int8_down) format.request = WeightRequest::kInt8;
      break;
    case WeightRole::kHead:
      if (on_load) format.request = options.int8_head ? WeightRequest::kInt8 : WeightRequest::kPlain;
      break;
    case WeightRole::kVision:
      if (on_load) format.request = WeightRequest::kPlain;
      if (options.int8_vision) format.request = WeightRequest::kInt8;
      break;
  }
  return format;
}

void StorageTotals::Add(const StorageTotals& other) {
  for (const auto& [form, count] : other.bytes) bytes[form] += count;
  for (const auto& [why, layers] : other.refused) refused[why] += layers;
  biases += other.biases;
  weights += other.weights;
}

int64_t StorageTotals::weight_bytes() const {
  int64_t total = 0;
  for (const auto& [form, count] : bytes) total += count;
  return total;
}

namespace {

// A layer's checkpoint tensors, checked; given back to the source at the end.
class LayerTensors {
 public:
  LayerTensors(const TensorSource& source, std::span<const std::string> names, std::span<const std::string> bias_names,
               const LayerFormat& format)
      : source_(source), names_(names) {
    PUREKV_CHECK(bias_names.empty() || bias_names.size() == names.size(), bias_names.size(), " biases of ",
                 names.size());
    for (const std::string& name : names) {
      const TensorData tensor = source.Read(name);
      CheckFinite(source, name, tensor);
      const Shape& shape = tensor.info.shape;
      const int64_t columns = ElementCount(shape) / shape[0];
      PUREKV_CHECK(in == 0 || in == columns, name, ": ", in, " and ", columns, " columns");
      in = columns;
      tensors_.push_back(tensor);
      const RowReader* reader = tensor.reader;
      if (reader == nullptr && tensor.bytes.size() >= kLargeTensor && format.Quantises(columns)) {
        readers_.push_back(std::make_unique<const LargeTensorRows>(source, name, tensor));
        reader = readers_.back().get();
      }
      parts.push_back({tensor.bytes.data(), tensor.info.dtype, shape[0], reader});
    }
    for (const std::string& name : bias_names) {
      const std::vector<float> one = ReadFloats(source, name);
      bias.insert(bias.end(), one.begin(), one.end());
    }
  }
  ~LayerTensors() {
    for (const std::string& name : names_) source_.Release(name);
  }
  LayerTensors(const LayerTensors&) = delete;
  LayerTensors& operator=(const LayerTensors&) = delete;

  int64_t in = 0;
  std::vector<WeightRows> parts;
  std::vector<float> bias;

 private:
  const TensorSource& source_;
  std::span<const std::string> names_;
  std::vector<TensorData> tensors_;
  std::vector<std::unique_ptr<const LargeTensorRows>> readers_;
};

}  // namespace

Linear ReadLinear(const TensorSource& source, std::span<const std::string> names,
                  std::span<const std::string> bias_names, const NumberFormats& formats, WeightRole role) {
  const LayerFormat format = FormatOf(formats, role);
  const LayerTensors tensors(source, names, bias_names, format);
  return {tensors.parts, tensors.in, tensors.bias, format, formats.activations};
}

GatedLinear ReadGatedLinear(const TensorSource& source, const std::string& gate, const std::string& up, bool with_bias,
                            const NumberFormats& formats, WeightRole role) {
  const std::vector<std::string> names = {gate + ".weight", up + ".weight"};
  const std::vector<std::string> biases = {gate + ".bias", up + ".bias"};
  const LayerFormat format = FormatOf(formats, role);
  const LayerTensors tensors(source, names, std::span(biases).first(with_bias ? 2 : 0), format);
  return {tensors.parts[0], tensors.parts[1], tensors.in, tensors.bias, format, formats.activations};
}

}  // namespace purekv

// Quantised layers for tests: safetensors files of any dtype, and writers of each published format, from the definition
// of where a code lies.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "base/bfloat16.h"
#include "base/quant_matrix.h"
#include "checkpoint/checkpoint_testing.h"
#include "checkpoint/gguf_tensors.h"
#include "checkpoint/json.h"
#include "checkpoint/model_files.h"
#include "checkpoint/tensor_source.h"
#include "support/gguf_writer.h"

namespace purekv::testing {

// A safetensors file in the making. A tensor can be changed until it is written.
class TensorFile {
 public:
  struct Tensor {
    std::string dtype;
    Shape shape;
    std::string bytes;
  };
  template <class T>
  void Add(const std::string& name, const std::string& dtype, const Shape& shape, const std::vector<T>& values) {
    tensors[name] = {dtype, shape, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)}};
  }
  // Rounded to F16, BF16 or F32.
  void AddScales(const std::string& name, const std::string& dtype, const Shape& shape,
                 const std::vector<float>& values) {
    if (dtype == "F32") return Add(name, dtype, shape, values);
    std::vector<uint16_t> bits;
    for (const float value : values) bits.push_back(dtype == "F16" ? ToF16(value).bits : ToBF16(value).bits);
    Add(name, dtype, shape, bits);
  }

  std::string File() const {
    Json header = Json::object();
    std::string data;
    for (const auto& [name, tensor] : tensors) {
      header[name] = {{"dtype", tensor.dtype},
                      {"shape", tensor.shape},
                      {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
      data += tensor.bytes;
    }
    const std::string text = header.dump();
    const uint64_t length = text.size();
    return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text + data;
  }

  std::map<std::string, Tensor> tensors;
};

// A model directory with one file of weights.
class QuantisedModel {
 public:
  TensorFile file;
  Json quantization = Json::object();
  Json config = {{"model_type", "test"}};

  // Written anew; what was opened before stays valid.
  std::shared_ptr<const ModelFiles> Open() {
    Json all = config;
    if (!quantization.empty()) all["quantization_config"] = quantization;
    dirs_.push_back(std::make_shared<const ScratchDir>());
    dirs_.back()->Write("config.json", all.dump());
    dirs_.back()->Write("model.safetensors", file.File());
    for (const auto& [name, text] : beside) dirs_.back()->Write(name, text);
    return OpenModelFiles(dirs_.back()->path());
  }
  std::map<std::string, std::string> beside;  // further files
  std::string path() const { return dirs_.back()->path(); }
  std::string weights() const { return dirs_.back()->File("model.safetensors"); }

 private:
  std::vector<std::shared_ptr<const ScratchDir>> dirs_;
};

// W[o][k] = (code - zero) * scale, in whatever format.
struct RandomLayer {
  int64_t out, in, group;
  int bits;
  std::vector<int> codes;      // [out][in], from 0
  std::vector<int> zeros;      // [out][groups], from 0
  std::vector<float> scales;   // [out][groups]
  std::vector<int32_t> g_idx;  // [in]

  int64_t groups() const { return in / group; }
  int Code(int64_t o, int64_t k) const { return codes[static_cast<size_t>(o * in + k)]; }
  int Zero(int64_t o, int64_t g) const { return zeros[static_cast<size_t>(o * groups() + g)]; }
  float Scale(int64_t o, int64_t g) const { return scales[static_cast<size_t>(o * groups() + g)]; }
  std::vector<float> Weights() const {
    std::vector<float> w;
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t k = 0; k < in; ++k) {
        const int64_t g = g_idx[static_cast<size_t>(k)];
        w.push_back(static_cast<float>(Code(o, k) - Zero(o, g)) * Scale(o, g));
      }
    }
    return w;
  }
};

enum class Zeros { kSymmetric, kAny };
enum class Order { kPlain, kShuffled };

// scales: rounded to `dtype`. group -1: a whole row.
inline RandomLayer MakeLayer(int64_t out, int64_t in, int64_t group, int bits, Zeros zeros, const std::string& dtype,
                             Order order = Order::kPlain, unsigned seed = 1) {
  std::mt19937 random(seed);
  RandomLayer layer{out, in, group == -1 ? in : group, bits, {}, {}, {}, {}};
  const unsigned mask = (1U << bits) - 1;
  for (int64_t i = 0; i < out * in; ++i) layer.codes.push_back(static_cast<int>(random() & mask));
  for (int64_t i = 0; i < out * layer.groups(); ++i) {
    layer.zeros.push_back(zeros == Zeros::kAny ? static_cast<int>(random() & mask) : 1 << (bits - 1));
    const float scale = std::uniform_real_distribution<float>(-0.02F, 0.02F)(random);
    layer.scales.push_back(dtype == "F16" ? ToFloat(ToF16(scale)) : dtype == "BF16" ? ToFloat(ToBF16(scale)) : scale);
  }
  for (int64_t k = 0; k < in; ++k) layer.g_idx.push_back(static_cast<int32_t>(k / layer.group));
  if (order == Order::kShuffled) std::shuffle(layer.g_idx.begin(), layer.g_idx.end(), random);
  return layer;
}

inline void Put(std::vector<uint32_t>* words, int64_t word, int64_t field, int bits, int value) {
  (*words)[static_cast<size_t>(word)] |= static_cast<uint32_t>(value) << (bits * field);
}
inline std::vector<uint32_t> Words(int64_t count) {
  return std::vector<uint32_t>(static_cast<size_t>(count));
}
// [groups][out] of [out][groups].
inline std::vector<float> GroupsFirst(const RandomLayer& layer) {
  std::vector<float> scales;
  for (int64_t g = 0; g < layer.groups(); ++g) {
    for (int64_t o = 0; o < layer.out; ++o) scales.push_back(layer.Scale(o, g));
  }
  return scales;
}

inline void AddAwq(TensorFile* file, const std::string& x, const RandomLayer& layer, const std::string& dtype) {
  static constexpr int64_t kPlace[] = {0, 4, 1, 5, 2, 6, 3, 7};
  const int64_t wide = layer.out / 8;
  auto codes = Words(layer.in * wide), zeros = Words(layer.groups() * wide);
  for (int64_t o = 0; o < layer.out; ++o) {
    for (int64_t k = 0; k < layer.in; ++k) Put(&codes, k * wide + o / 8, kPlace[o % 8], 4, layer.Code(o, k));
    for (int64_t g = 0; g < layer.groups(); ++g) Put(&zeros, g * wide + o / 8, kPlace[o % 8], 4, layer.Zero(o, g));
  }
  file->Add(x + ".qweight", "I32", {layer.in, wide}, codes);
  file->Add(x + ".qzeros", "I32", {layer.groups(), wide}, zeros);
  file->AddScales(x + ".scales", dtype, {layer.groups(), layer.out}, GroupsFirst(layer));
}

// version: 1 stores zero points minus one.
inline void AddGptq(TensorFile* file, const std::string& x, const RandomLayer& layer, const std::string& dtype,
                    int version) {
  const int64_t n = 32 / layer.bits;
  auto codes = Words(layer.in / n * layer.out), zeros = Words(layer.groups() * (layer.out / n));
  for (int64_t o = 0; o < layer.out; ++o) {
    for (int64_t k = 0; k < layer.in; ++k) Put(&codes, k / n * layer.out + o, k % n, layer.bits, layer.Code(o, k));
    for (int64_t g = 0; g < layer.groups() && o < layer.out / n * n; ++g) {
      Put(&zeros, g * (layer.out / n) + o / n, o % n, layer.bits, layer.Zero(o, g));
    }
  }
  for (uint32_t& word : zeros) word -= version == 2 ? 0 : layer.bits == 4 ? 0x11111111U : 0x01010101U;
  file->Add(x + ".qweight", "I32", {layer.in / n, layer.out}, codes);
  file->Add(x + ".qzeros", "I32", {layer.groups(), layer.out / n}, zeros);
  file->AddScales(x + ".scales", dtype, {layer.groups(), layer.out}, GroupsFirst(layer));
  file->Add(x + ".g_idx", "I32", {layer.in}, layer.g_idx);
}

inline void AddPacked(TensorFile* file, const std::string& x, const RandomLayer& layer, const std::string& dtype,
                      bool symmetric) {
  const int64_t n = 32 / layer.bits, wide = (layer.in + n - 1) / n, high = (layer.out + n - 1) / n;
  auto codes = Words(layer.out * wide), zeros = Words(high * layer.groups());
  for (int64_t o = 0; o < layer.out; ++o) {
    for (int64_t k = 0; k < layer.in; ++k) Put(&codes, o * wide + k / n, k % n, layer.bits, layer.Code(o, k));
    for (int64_t g = 0; g < layer.groups(); ++g) {
      Put(&zeros, o / n * layer.groups() + g, o % n, layer.bits, layer.Zero(o, g));
    }
  }
  file->Add(x + ".weight_packed", "I32", {layer.out, wide}, codes);
  file->AddScales(x + ".weight_scale", dtype, {layer.out, layer.groups()}, layer.scales);
  file->Add(x + ".weight_shape", "I64", {2}, std::vector<int64_t>{layer.out, layer.in});
  if (!symmetric) file->Add(x + ".weight_zero_point", "I32", {high, layer.groups()}, zeros);
}

inline void AddInt8(TensorFile* file, const std::string& x, const RandomLayer& layer, const std::string& dtype,
                    bool symmetric) {
  std::vector<int8_t> codes, zeros;
  for (const int code : layer.codes) codes.push_back(static_cast<int8_t>(code - 128));
  for (const int zero : layer.zeros) zeros.push_back(static_cast<int8_t>(zero - 128));
  file->Add(x + ".weight", "I8", {layer.out, layer.in}, codes);
  file->AddScales(x + ".weight_scale", dtype, {layer.out, layer.groups()}, layer.scales);
  if (!symmetric) file->Add(x + ".weight_zero_point", "I8", {layer.out, layer.groups()}, zeros);
}

// A group of compressed-tensors' config_groups.
inline Json Weights(int bits, const std::string& strategy, int64_t group, bool symmetric) {
  Json weights = {{"num_bits", bits}, {"type", "int"}, {"strategy", strategy}, {"symmetric", symmetric}};
  weights["group_size"] = group > 0 ? Json(group) : Json();
  weights["actorder"] = nullptr;
  return {{"targets", {"Linear"}}, {"input_activations", nullptr}, {"weights", weights}};
}
inline Json Compressed(const std::string& format, const Json& group) {
  return {{"quant_method", "compressed-tensors"},
          {"format", format},
          {"ignore", {"lm_head", "re:visual.*"}},
          {"kv_cache_scheme", nullptr},
          {"config_groups", {{"group_0", group}}}};
}

// All rows as floats; and where there are codes, that they mean the same bits.
inline std::vector<float> AllRows(const TensorData& tensor) {
  const int64_t rows = tensor.info.shape.at(0), in = tensor.info.shape.at(1);
  std::vector<float> all(static_cast<size_t>(rows * in));
  tensor.reader->Read(0, rows, all.data());
  const QuantMatrix* quant = tensor.reader->quant();
  if (quant == nullptr) return all;
  EXPECT_EQ(quant->rows(), rows);
  EXPECT_EQ(quant->in(), in);
  const QuantLayout& layout = quant->layout();
  std::vector<uint8_t> codes(static_cast<size_t>(in)), bytes(static_cast<size_t>(layout.bytes(in)));
  std::vector<float> numbers(static_cast<size_t>(layout.numbers(in))), values(codes.size());
  size_t wrong = 0;
  for (int64_t row = rows - 1; row >= 0; --row) {  // backwards: another way through the unpacked blocks
    quant->ReadCodes(row, codes.data(), numbers.data(), bytes.data());
    QuantValues(layout, in, codes.data(), numbers.data(), bytes.data(), values.data());
    for (size_t i = 0; i < codes.size(); ++i) {
      const auto k = quant->perm().empty() ? i : static_cast<size_t>(quant->perm()[i]);
      const float read = all[static_cast<size_t>(row * in) + k];
      wrong += std::bit_cast<uint32_t>(values[i]) != std::bit_cast<uint32_t>(read);
    }
  }
  EXPECT_EQ(wrong, 0u) << "codes that are not what Read gives";
  return all;
}

inline void ExpectSameBits(const std::vector<float>& values, const std::vector<float>& expected,
                           const std::string& what) {
  ASSERT_EQ(values.size(), expected.size()) << what;
  size_t wrong = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::bit_cast<uint32_t>(values[i]) == std::bit_cast<uint32_t>(expected[i])) continue;
    if (++wrong <= 3) ADD_FAILURE() << what << "[" << i << "]: " << values[i] << ", expected " << expected[i];
  }
  EXPECT_EQ(wrong, 0u) << what;
}

inline QuantLayout W4G(int64_t group, Dtype scales) {
  return {QuantStorage::kW4G, group, scales};
}
inline QuantLayout W8G(int64_t group, Dtype scales) {
  return {QuantStorage::kW8G, group, scales};
}
inline QuantLayout W8C(int64_t in) {
  return {QuantStorage::kW8C, in, Dtype::kF32};
}

// A GGUF file of one matrix of that name.
inline std::unique_ptr<const TensorSource> GgufOf(const ScratchDir& dir, const std::string& name, const Shape& shape,
                                                  GgmlType type, const std::string& bytes,
                                                  const GgufLayout& layout = {}) {
  GgufWriter writer;
  writer.AddRaw(name, shape, type, bytes);
  dir.Write("m.gguf", writer.File());
  return GgufTensors(GgufFile::Open(dir.File("m.gguf")), layout);
}

}  // namespace purekv::testing

// Values that others packed, bit by bit: tests/data/weights.
#include <gmock/gmock.h>

#include "checkpoint/quantised_tensors.h"
#include "checkpoint/quantised_testing.h"

namespace purekv {
namespace {

using testing::AllRows;
using testing::Compressed;
using ::testing::ElementsAre;
using testing::ExpectSameBits;
using testing::GgufOf;
using testing::QuantisedModel;
using testing::ScratchDir;
using testing::TensorFile;
using testing::Weights;

const Json& Vectors() {
  static const Json kVectors = ReadJson(PUREKV_TEST_DATA "/weights/weights_vectors.json");
  return kVectors;
}

template <class T>
std::vector<T> Flat(const Json& rows) {
  std::vector<T> values;
  for (const Json& row : rows) {
    if (row.is_array()) {
      for (const Json& value : row) values.push_back(value.get<T>());
    } else {
      values.push_back(row.get<T>());
    }
  }
  return values;
}
Shape ShapeOf(const Json& rows) {
  Shape shape = {static_cast<int64_t>(rows.size())};
  if (rows.at(0).is_array()) shape.push_back(static_cast<int64_t>(rows.at(0).size()));
  return shape;
}
template <class T>
void AddField(TensorFile* file, const Json& vector, const std::string& field, const std::string& part,
              const std::string& dtype) {
  if (vector.contains(field)) file->Add("x." + part, dtype, ShapeOf(vector.at(field)), Flat<T>(vector.at(field)));
}

// The files of a vector of the formats in safetensors.
QuantisedModel ModelOf(const Json& vector) {
  QuantisedModel model;
  TensorFile* file = &model.file;
  AddField<int32_t>(file, vector, "qweight", "qweight", "I32");
  AddField<int32_t>(file, vector, "qzeros", "qzeros", "I32");
  AddField<uint16_t>(file, vector, "scales_f16_bits", "scales", "F16");
  AddField<int32_t>(file, vector, "g_idx", "g_idx", "I32");
  AddField<int32_t>(file, vector, "weight_packed", "weight_packed", "I32");
  AddField<uint16_t>(file, vector, "weight_scale_bf16_bits", "weight_scale", "BF16");
  AddField<int64_t>(file, vector, "weight_shape", "weight_shape", "I64");
  AddField<int32_t>(file, vector, "weight_zero_point", "weight_zero_point", "I32");
  AddField<int8_t>(file, vector, "weight", "weight", "I8");
  AddField<uint8_t>(file, vector, "weight_f8_e4m3_bits", "weight", "F8_E4M3");
  const std::string format = vector.at("format");
  if (format == "compressed-tensors") {
    Json group =
        Weights(vector.at("num_bits"), vector.at("strategy"), vector.value("group_size", 0), vector.at("symmetric"));
    if (vector.at("layout") == "float-quantized") group["weights"]["type"] = "float";
    model.quantization = Compressed(vector.at("layout"), group);
  } else {
    model.quantization = {{"quant_method", format}};
    for (const char* key : {"version", "bits", "group_size", "zero_point", "checkpoint_format", "sym", "desc_act"}) {
      if (vector.contains(key)) model.quantization[key] = vector.at(key);
    }
  }
  return model;
}

TEST(QuantisedVectors, SafetensorsFormatsAreExact) {
  int count = 0;
  for (const Json& vector : Vectors().at("vectors")) {
    if (vector.at("format") == "gguf" || vector.at("format") == "own") continue;
    const std::string name = vector.at("name");
    SCOPED_TRACE(name);
    QuantisedModel model = ModelOf(vector);
    const auto files = model.Open();
    const TensorSource& source = *files->tensors();
    EXPECT_THAT(source.Names(), ElementsAre("x.weight"));
    EXPECT_EQ(source.method(), vector.at("format").get<std::string>());
    ASSERT_TRUE(source.Find("x.weight").has_value());
    EXPECT_EQ(source.Find("x.weight")->shape, ShapeOf(vector.at("W")));
    const TensorData tensor = source.Read("x.weight");
    EXPECT_TRUE(tensor.reader->CheckFinite());
    ExpectSameBits(AllRows(tensor), Flat<float>(vector.at("W")), name);
    ++count;
  }
  EXPECT_EQ(count, 9);
}

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

TEST(QuantisedVectors, GgufBlocksAreExact) {
  int count = 0;
  for (const Json& vector : Vectors().at("vectors")) {
    if (vector.at("format") != "gguf") continue;
    const std::string name = vector.at("name");
    SCOPED_TRACE(name);
    const auto type = static_cast<GgmlType>(vector.at("ggml_type_id").get<int>());
    const ScratchDir dir;
    const auto source = GgufOf(dir, "blk.0.ffn_up.weight", ShapeOf(vector.at("W")), type, FromHex(vector.at("data")));
    const TensorData tensor = source->Read("model.layers.0.mlp.up_proj.weight");
    ExpectSameBits(AllRows(tensor), Flat<float>(vector.at("W")), name);
    EXPECT_EQ(source->Quantised("model.layers.0.mlp.up_proj.weight")->format, vector.at("ggml_type"));
    EXPECT_EQ(source->method(), "gguf");
    ++count;
  }
  EXPECT_EQ(count, 4);
}

}  // namespace
}  // namespace purekv

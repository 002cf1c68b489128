// What is wrong with quantised checkpoints is said in one line that names the file, and the field or the tensor.
#include <gmock/gmock.h>

#include <algorithm>
#include <limits>

#include "checkpoint/quantisation_config.h"
#include "checkpoint/quantised_testing.h"

namespace purekv {
namespace {

using testing::AddAwq;
using testing::AddGptq;
using testing::AddInt8;
using testing::AddPacked;
using testing::Compressed;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::MakeLayer;
using testing::Order;
using testing::QuantisedModel;
using testing::RandomLayer;
using testing::ScratchDir;
using testing::Weights;
using testing::Zeros;

// --- the configuration

QuantisationConfig Parse(const Json& quantization) {
  const Json config = {{"quantization_config", quantization}};
  return *ReadQuantisationConfig(config, "DIR/config.json", "DIR");
}
std::string ConfigError(const Json& quantization) {
  return ErrorOf([&] { Parse(quantization); });
}
const std::string kWhere = "DIR/config.json: quantization_config";

TEST(QuantisationConfig, RefusesWhatIsNotRead) {
  EXPECT_EQ(ConfigError({{"quant_method", "bitsandbytes"}}),
            kWhere + ".quant_method \"bitsandbytes\" is not read; awq, gptq, compressed-tensors and fp8 are");
  EXPECT_EQ(ConfigError({{"quant_method", "awq"}, {"version", "gemv"}}),
            kWhere + ".version \"gemv\" is not read; \"gemm\" is");
  EXPECT_EQ(ConfigError({{"quant_method", "gptq"}, {"bits", 3}}), kWhere + ".bits 3 is not read; 4 and 8 are");
  EXPECT_EQ(ConfigError({{"quant_method", "awq"}, {"bits", 8}}), kWhere + ".bits 8 is not read; 4 is");
  EXPECT_EQ(ConfigError({{"quant_method", "gptq"}, {"group_size", 0}}),
            kWhere + ".group_size 0 is not read; -1 and positive sizes are");
  EXPECT_EQ(ConfigError({{"quant_method", "gptq"}, {"checkpoint_format", "marlin"}}),
            kWhere + ".checkpoint_format \"marlin\" is not read; \"gptq\" and \"gptq_v2\" are");
  EXPECT_EQ(ConfigError({{"quant_method", "gptq"}, {"is_marlin_format", true}}),
            kWhere + ".is_marlin_format true is not read; false is");
  EXPECT_EQ(ConfigError({{"quant_method", "fp8"}, {"fmt", "e5m2"}}), kWhere + ".fmt \"e5m2\" is not read; \"e4m3\" is");
  EXPECT_EQ(ConfigError({{"bits", 4}}),
            kWhere + ".quant_method is missing; awq, gptq, compressed-tensors and fp8 are read");
  EXPECT_THAT(ConfigError({{"quant_method", 4}}), HasSubstr(kWhere));
  EXPECT_THAT(ConfigError({{"quant_method", "gptq"}, {"bits", "4"}}), HasSubstr("\"bits\" is a string"));
  EXPECT_THAT(ConfigError({{"quant_method", "gptq"}, {"bits", -4}}), HasSubstr("\"bits\" is -4"));
  EXPECT_THAT(ConfigError({{"quant_method", "gptq"}, {"group_size", -2}}), HasSubstr("\"group_size\" is -2"));
  EXPECT_THAT(ConfigError({{"quant_method", "gptq"}, {"sym", 1}}), HasSubstr("\"sym\" is a number"));
  EXPECT_THAT(ConfigError({{"quant_method", "fp8"}, {"weight_block_size", {128}}}), HasSubstr("has 1 numbers"));
  EXPECT_THAT(ConfigError({{"quant_method", "fp8"}, {"weight_block_size", {128, 0}}}), HasSubstr("weight_block_size"));
  EXPECT_THAT(ConfigError("awq"), HasSubstr("expected an object"));
}

TEST(QuantisationConfig, AutoRoundIsGptqWhereItIsSymmetric) {
  const Json good = {{"quant_method", "auto-round"}, {"bits", 4}, {"group_size", 128}, {"sym", true}};
  for (const char* method : {"auto-round", "intel/auto-round"}) {
    for (const char* key : {"packing_format", "backend"}) {
      Json config = good;
      config["quant_method"] = method;
      config[key] = "auto_round:auto_gptq";
      EXPECT_EQ(Parse(config).method, QuantMethod::kGptq);
      EXPECT_EQ(Parse(config).schemes.at(0).symmetric, true);
    }
  }
  Json config = good;
  EXPECT_EQ(ConfigError(config), kWhere + ".packing_format \"\" is not read; \"auto_round:auto_gptq\" is");
  config["packing_format"] = "auto_round:auto_awq";
  EXPECT_EQ(ConfigError(config),
            kWhere + ".packing_format \"auto_round:auto_awq\" is not read; \"auto_round:auto_gptq\" is");
  config["packing_format"] = "auto_round:auto_gptq";
  config["sym"] = false;
  EXPECT_EQ(ConfigError(config), kWhere + ".sym false is not read; true is with auto-round");
}

TEST(QuantisationConfig, CompressedTensors) {
  const QuantisationConfig config = Parse(Compressed("pack-quantized", Weights(4, "group", 128, true)));
  EXPECT_EQ(config.method, QuantMethod::kCompressedTensors);
  ASSERT_EQ(config.schemes.size(), 1u);
  EXPECT_EQ(config.schemes[0].bits, 4);
  EXPECT_EQ(config.schemes[0].group, 128);
  EXPECT_EQ(config.schemes[0].packed, true);
  EXPECT_FALSE(config.int8_activations);

  const auto error = [](const std::string& key, const Json& value) {
    Json group = Weights(4, "group", 128, true);
    group["weights"][key] = value;
    return ConfigError(Compressed("pack-quantized", group));
  };
  const std::string weights = kWhere + ".config_groups.group_0.weights";
  EXPECT_EQ(error("num_bits", 2), weights + ".num_bits 2 is not read; 4 and 8 are");
  EXPECT_EQ(error("type", "nf4"), weights + ".type \"nf4\" is not read; \"int\" and \"float\" are");
  EXPECT_EQ(error("type", "float"), weights + ".num_bits 4 is not read; 8 is of type float");
  EXPECT_EQ(error("strategy", "tensor_group"),
            weights + ".strategy \"tensor_group\" is not read; tensor, channel, group and block are");
  EXPECT_EQ(error("actorder", "random"), weights + ".actorder \"random\" is not read; \"weight\" and \"group\" are");
  EXPECT_EQ(error("group_size", Json()), weights + ".group_size is missing; strategy group needs it");
  EXPECT_EQ(ConfigError(Compressed("marlin-24", Weights(4, "group", 128, true))),
            kWhere + ".format \"marlin-24\" is not read; pack-quantized, int-quantized and float-quantized are");
  EXPECT_EQ(ConfigError(Compressed("float-quantized", Weights(8, "channel", 0, true))),
            kWhere + ".config_groups.group_0.weights.type is not what float-quantized holds");
  EXPECT_EQ(ConfigError({{"quant_method", "compressed-tensors"}}),
            kWhere + ".config_groups is missing; expected an object");
  EXPECT_EQ(ConfigError({{"quant_method", "compressed-tensors"}, {"config_groups", Json::object()}}),
            kWhere + ".config_groups has no group with weights");
  Json sparse = Compressed("pack-quantized", Weights(4, "group", 128, true));
  sparse["sparsity_config"] = {{"format", "sparse-bitmask"}};
  EXPECT_EQ(ConfigError(sparse), kWhere + ".sparsity_config.format \"sparse-bitmask\" is not read; dense is");
}

TEST(QuantisationConfig, ActivationsOfEightBitsAreThoseOfAllGroups) {
  Json group = Weights(8, "channel", 0, true);
  group["input_activations"] = {{"num_bits", 8}, {"type", "int"}, {"strategy", "token"}, {"dynamic", true}};
  Json config = Compressed("int-quantized", group);
  EXPECT_TRUE(Parse(config).int8_activations);
  config["config_groups"]["group_1"] = Weights(8, "channel", 0, true);
  EXPECT_FALSE(Parse(config).int8_activations);
  group["input_activations"]["type"] = "float";
  EXPECT_FALSE(Parse(Compressed("int-quantized", group)).int8_activations);
  group["input_activations"] = {{"num_bits", 4}, {"type", "int"}};
  EXPECT_FALSE(Parse(Compressed("int-quantized", group)).int8_activations);
}

TEST(QuantisationConfig, IsFoundWhereToolsWriteIt) {
  const Json awq = {{"quant_method", "awq"}, {"bits", 4}};
  Json compressed = Compressed("pack-quantized", Weights(4, "group", 128, true));
  compressed.erase("quant_method");
  const ScratchDir dir;
  const auto read = [&](const Json& config) { return ReadQuantisationConfig(config, "c.json", dir.path()); };
  EXPECT_FALSE(read(Json::object()).has_value());
  EXPECT_FALSE(read({{"quantization_config", nullptr}}).has_value());
  EXPECT_EQ(read({{"quantization_config", awq}})->where, "c.json: quantization_config");
  EXPECT_EQ(read({{"text_config", {{"quantization_config", awq}}}})->where, "c.json: text_config.quantization_config");
  EXPECT_EQ(read({{"compression_config", compressed}})->method, QuantMethod::kCompressedTensors);
  dir.Write("quantize_config.json", R"({"bits": 4, "group_size": 64, "desc_act": false, "sym": true})");
  EXPECT_EQ(read(Json::object())->method, QuantMethod::kGptq);
  EXPECT_EQ(read(Json::object())->schemes.at(0).group, 64);
  EXPECT_EQ(read({{"quantization_config", awq}})->method, QuantMethod::kAwq);
  dir.Write("quantize_config.json", R"({"bits": 2})");
  EXPECT_EQ(ErrorOf([&] { read(Json::object()); }),
            dir.File("quantize_config.json") + ": bits 2 is not read; 4 and 8 are");
}

// --- tensors

// A model with the layer x of 2048 inputs and 1024 outputs would take seconds: 256 and 64 do.
constexpr int64_t kIn = 256, kOut = 64, kGroup = 32;

QuantisedModel Awq() {
  QuantisedModel model;
  AddAwq(&model.file, "x", MakeLayer(kOut, kIn, kGroup, 4, Zeros::kAny, "F16"), "F16");
  model.quantization = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", kGroup}};
  return model;
}
QuantisedModel Gptq(int bits = 4) {
  QuantisedModel model;
  AddGptq(&model.file, "x", MakeLayer(kOut, kIn, kGroup, bits, Zeros::kAny, "F16", Order::kShuffled), "F16", 1);
  model.quantization = {{"quant_method", "gptq"}, {"bits", bits}, {"group_size", kGroup}, {"sym", false}};
  return model;
}
QuantisedModel Packed() {
  QuantisedModel model;
  AddPacked(&model.file, "x", MakeLayer(kOut, kIn, kGroup, 4, Zeros::kAny, "BF16"), "BF16", false);
  model.quantization = Compressed("pack-quantized", Weights(4, "group", kGroup, false));
  return model;
}
QuantisedModel Int8() {
  QuantisedModel model;
  AddInt8(&model.file, "x", MakeLayer(kOut, kIn, -1, 8, Zeros::kSymmetric, "BF16"), "BF16", true);
  model.quantization = Compressed("int-quantized", Weights(8, "channel", 0, true));
  return model;
}
QuantisedModel Fp8() {
  QuantisedModel model;
  model.file.Add("x.weight", "F8_E4M3", {kOut, kIn}, std::vector<uint8_t>(kOut * kIn, 0x38));
  model.file.AddScales("x.weight_scale_inv", "F32", {2, 4}, std::vector<float>(8, 1.0F));
  model.quantization = {{"quant_method", "fp8"}, {"weight_block_size", {32, 64}}};
  return model;
}

// What reading X.weight, with its values looked at, says behind "FILE: ".
std::string ReadError(QuantisedModel model) {
  std::shared_ptr<const ModelFiles> files;
  const std::string message = ErrorOf([&] {
    files = model.Open();
    const TensorData tensor = files->tensors()->Read("x.weight");
    tensor.reader->CheckFinite();
  });
  EXPECT_THAT(message, ::testing::StartsWith(model.path()));
  const std::string file = model.weights() + ": ";
  return message.starts_with(file) ? message.substr(file.size()) : message;
}
// The same of Quantised, which looks at no values.
std::string AskError(QuantisedModel model) {
  const std::string message = ErrorOf([&] { model.Open()->tensors()->Quantised("x.weight"); });
  const std::string file = model.weights() + ": ";
  return message.starts_with(file) ? message.substr(file.size()) : message;
}

QuantisedModel Without(QuantisedModel model, const std::string& name) {
  EXPECT_EQ(model.file.tensors.erase(name), 1u);
  return model;
}
QuantisedModel OfType(QuantisedModel model, const std::string& name, const std::string& dtype) {
  model.file.tensors.at(name).dtype = dtype;
  return model;
}
QuantisedModel Shaped(QuantisedModel model, const std::string& name, const Shape& shape) {
  testing::TensorFile::Tensor& tensor = model.file.tensors.at(name);
  const size_t size = tensor.bytes.size() / static_cast<size_t>(ElementCount(tensor.shape));
  tensor.bytes.resize(size * static_cast<size_t>(ElementCount(shape)));
  tensor.shape = shape;
  return model;
}
template <class T>
QuantisedModel With(QuantisedModel model, const std::string& name, size_t index, T value) {
  std::string& bytes = model.file.tensors.at(name).bytes;
  EXPECT_LE((index + 1) * sizeof(T), bytes.size());
  std::memcpy(bytes.data() + index * sizeof(T), &value, sizeof(T));
  return model;
}

TEST(QuantisedDamage, TheModelsAreGoodBeforehand) {
  for (QuantisedModel (*make)() : {+[] { return Awq(); }, +[] { return Gptq(); }, +[] { return Gptq(8); },
                                   +[] { return Packed(); }, +[] { return Int8(); }, +[] { return Fp8(); }}) {
    QuantisedModel model = make();
    const auto files = model.Open();
    EXPECT_TRUE(files->tensors()->Quantised("x.weight").has_value());
    EXPECT_TRUE(files->tensors()->Read("x.weight").reader->CheckFinite());
  }
}

TEST(QuantisedDamage, MissingParts) {
  EXPECT_EQ(ReadError(Without(Awq(), "x.qzeros")), "tensor x.qzeros is missing; x.qweight needs it");
  EXPECT_EQ(ReadError(Without(Awq(), "x.scales")), "tensor x.scales is missing; x.qweight needs it");
  EXPECT_EQ(ReadError(Without(Gptq(), "x.qzeros")), "tensor x.qzeros is missing; x.qweight needs it");
  EXPECT_EQ(ReadError(Without(Gptq(), "x.scales")), "tensor x.scales is missing; x.qweight needs it");
  EXPECT_EQ(ReadError(Without(Packed(), "x.weight_scale")),
            "tensor x.weight_scale is missing; x.weight_packed needs it");
  EXPECT_EQ(ReadError(Without(Packed(), "x.weight_shape")),
            "tensor x.weight_shape is missing; x.weight_packed needs it");
  EXPECT_EQ(ReadError(Without(Packed(), "x.weight_zero_point")),
            "tensor x.weight_zero_point is missing; x.weight_packed needs it");
  EXPECT_EQ(ReadError(Without(Int8(), "x.weight_scale")), "tensor x.weight_scale is missing; x.weight needs it");
  EXPECT_EQ(ReadError(Without(Fp8(), "x.weight_scale_inv")), "tensor x.weight_scale is missing; x.weight needs it");
  QuantisedModel ordered = Packed();
  ordered.quantization["config_groups"]["group_0"]["weights"]["actorder"] = "group";
  EXPECT_EQ(ReadError(ordered), "tensor x.weight_g_idx is missing; x.weight_packed needs it");
}

TEST(QuantisedDamage, WrongTypes) {
  EXPECT_EQ(ReadError(OfType(Awq(), "x.qweight", "U32")), "tensor x.qweight is U32; supported is I32");
  EXPECT_EQ(ReadError(OfType(Awq(), "x.qzeros", "F32")), "tensor x.qzeros is F32; supported is I32");
  EXPECT_EQ(ReadError(OfType(Awq(), "x.scales", "I16")), "tensor x.scales is I16; supported are F16, BF16 and F32");
  EXPECT_EQ(ReadError(OfType(Gptq(), "x.g_idx", "U32")), "tensor x.g_idx is U32; supported is I32");
  EXPECT_EQ(ReadError(OfType(Packed(), "x.weight_packed", "F32")), "tensor x.weight_packed is F32; supported is I32");
  EXPECT_EQ(ReadError(OfType(Packed(), "x.weight_shape", "F64")),
            "tensor x.weight_shape is F64; supported are I64 and I32");
  EXPECT_EQ(ReadError(OfType(Packed(), "x.weight_zero_point", "F32")),
            "tensor x.weight_zero_point is F32; supported are I32 and I8");
  // What no layer is made of is refused as before.
  EXPECT_EQ(ReadError(OfType(Int8(), "x.weight", "U8")), "tensor x.weight is U8; supported are F32, BF16 and F16");
  EXPECT_EQ(ReadError(OfType(Fp8(), "x.weight", "F8_E5M2")),
            "tensor x.weight is F8_E5M2; supported are F32, BF16 and F16");
}

TEST(QuantisedDamage, ShapesOfPartsThatDoNotFit) {
  EXPECT_EQ(ReadError(Shaped(Awq(), "x.qzeros", {7, 8})),
            "tensor x.qzeros has shape [7, 8]; awq with 256 inputs and 64 outputs at 4 bits in groups of 32 needs "
            "[8, 8]");
  EXPECT_EQ(ReadError(Shaped(Awq(), "x.scales", {4, 64})),
            "tensor x.scales has shape [4, 64]; awq with 256 inputs and 64 outputs at 4 bits in groups of 32 needs "
            "[8, 64]");
  EXPECT_EQ(ReadError(Shaped(Awq(), "x.qweight", {4096})),
            "tensor x.qweight has shape [4096]; two dimensions, neither of them 0, are expected");
  EXPECT_EQ(ReadError(Shaped(Awq(), "x.qweight", {0, int64_t{1} << 62})),
            "tensor x.qweight has shape [0, 4611686018427387904]; two dimensions, neither of them 0, are expected");
  EXPECT_EQ(ReadError(Shaped(Gptq(), "x.scales", {8, 63})),
            "tensor x.scales has shape [8, 63]; gptq with 256 inputs and 64 outputs at 4 bits in groups of 32 needs "
            "[8, 64]");
  EXPECT_EQ(ReadError(Shaped(Gptq(), "x.qzeros", {8, 16})),
            "tensor x.qzeros has shape [8, 16]; gptq with 256 inputs and 64 outputs at 4 bits in groups of 32 needs "
            "[8, 8]");
  EXPECT_EQ(ReadError(Shaped(Gptq(), "x.g_idx", {255})),
            "tensor x.g_idx has shape [255]; a layer of 256 inputs needs [256]");
  EXPECT_EQ(ReadError(Shaped(Gptq(), "x.qweight", {32, 63})),
            "tensor x.scales has shape [8, 64]; gptq with 256 inputs and 63 outputs at 4 bits in groups of 32 needs "
            "[8, 63]");
  EXPECT_EQ(ReadError(Shaped(Packed(), "x.weight_packed", {64, 31})),
            "tensor x.weight_packed has shape [64, 31]; pack-quantized with 256 inputs and 64 outputs at 4 bits needs "
            "[64, 32]");
  EXPECT_EQ(ReadError(Shaped(Packed(), "x.weight_scale", {64, 4})),
            "tensor x.weight_scale has shape [64, 4]; pack-quantized with 256 inputs and 64 outputs at 4 bits in "
            "groups of 32 needs [64, 8]");
  EXPECT_EQ(ReadError(Shaped(Packed(), "x.weight_zero_point", {64, 8})),
            "tensor x.weight_zero_point has shape [64, 8]; pack-quantized with 256 inputs and 64 outputs at 4 bits "
            "needs [8, 8]");
  EXPECT_EQ(ReadError(Shaped(Packed(), "x.weight_shape", {3})),
            "tensor x.weight_shape has shape [3]; a matrix needs [2]");
  EXPECT_EQ(ReadError(Shaped(Int8(), "x.weight_scale", {63, 1})),
            "tensor x.weight_scale has shape [63, 1]; int-quantized with 256 inputs and 64 outputs at 8 bits needs "
            "[64, 1]");
  EXPECT_EQ(ReadError(Shaped(Fp8(), "x.weight_scale_inv", {2, 3})),
            "tensor x.weight_scale_inv has shape [2, 3]; fp8 with 256 inputs and 64 outputs at 8 bits in blocks of "
            "32 x 64 needs [2, 4]");
  QuantisedModel without_blocks = Fp8();
  without_blocks.quantization.erase("weight_block_size");
  EXPECT_THAT(ReadError(without_blocks), HasSubstr("tensor x.weight_scale_inv has shape [2, 4]"));
}

TEST(QuantisedDamage, LyingWeightShape) {
  for (const int64_t out : {int64_t{0}, int64_t{-1}, (int64_t{1} << 31) + 1, std::numeric_limits<int64_t>::max()}) {
    EXPECT_THAT(ReadError(With(Packed(), "x.weight_shape", 0, out)),
                HasSubstr("tensor x.weight_shape holds " + std::to_string(out) + "; outputs and inputs are 1 to"));
  }
  EXPECT_EQ(ReadError(With(Packed(), "x.weight_shape", 1, int64_t{1} << 31)),
            "tensor x.weight_packed has shape [64, 32]; pack-quantized with 2147483648 inputs and 64 outputs at 4 "
            "bits needs [64, 268435456]");
}

TEST(QuantisedDamage, ConfigurationAgainstShapes) {
  const auto set = [](QuantisedModel model, const std::string& key, const Json& value) {
    model.quantization[key] = value;
    return model;
  };
  EXPECT_EQ(ReadError(set(Awq(), "group_size", 64)),
            "tensor x.scales has shape [8, 64]; awq with 256 inputs and 64 outputs at 4 bits in groups of 64 needs "
            "[4, 64]");
  EXPECT_EQ(ReadError(set(Awq(), "group_size", -1)),
            "tensor x.scales has shape [8, 64]; awq with 256 inputs and 64 outputs at 4 bits in groups of 256 needs "
            "[1, 64]");
  QuantisedModel uneven = set(Awq(), "group_size", 96);
  EXPECT_THAT(ReadError(uneven), HasSubstr("tensor x.qweight has 256 inputs, no multiple of the groups of 96 of "));
  EXPECT_EQ(ReadError(set(Gptq(), "bits", 8)),
            "tensor x.scales has shape [8, 64]; gptq with 128 inputs and 64 outputs at 8 bits in groups of 32 needs "
            "[4, 64]");
  EXPECT_THAT(ReadError(set(Awq(), "quant_method", "compressed-tensors")), HasSubstr("config_groups is missing"));
  QuantisedModel fp8 = Awq();
  fp8.quantization = {{"quant_method", "fp8"}};
  EXPECT_THAT(ReadError(fp8), HasSubstr("tensor x.qweight is one of awq or gptq; "));

  QuantisedModel packed = Packed();
  packed.quantization = Compressed("pack-quantized", Weights(8, "group", kGroup, false));
  EXPECT_EQ(ReadError(packed),
            "tensor x.weight_packed has shape [64, 32]; pack-quantized with 256 inputs and 64 outputs at 8 bits needs "
            "[64, 64]");
  packed.quantization = Compressed("int-quantized", Weights(8, "channel", 0, true));
  EXPECT_THAT(ReadError(packed), HasSubstr("tensor x.weight_packed: no group of "));
  QuantisedModel bytes = Int8();
  bytes.quantization = Compressed("pack-quantized", Weights(4, "group", 32, true));
  EXPECT_THAT(ReadError(bytes), HasSubstr("tensor x.weight: no group of "));
  bytes.quantization = Compressed("int-quantized", Weights(8, "tensor", 0, true));
  EXPECT_EQ(ReadError(bytes),
            "tensor x.weight_scale has shape [64, 1]; int-quantized with 256 inputs and 64 outputs at 8 bits needs "
            "[1]");
  QuantisedModel floats = Fp8();
  floats.quantization = Compressed("int-quantized", Weights(8, "channel", 0, true));
  EXPECT_THAT(ReadError(floats), HasSubstr("tensor x.weight: no group of "));

  QuantisedModel bare = Gptq();
  bare.quantization = {{"quant_method", "gptq"}, {"sym", true}};
  bare.file.tensors.erase("x.g_idx");
  bare.file.tensors.erase("x.qzeros");
  EXPECT_THAT(ReadError(bare), HasSubstr("tells whether it has 4 or 8 bits"));
}

TEST(QuantisedDamage, GroupsThatDoNotAddUp) {
  const RandomLayer layer = MakeLayer(kOut, kIn, kGroup, 4, Zeros::kAny, "F16", Order::kShuffled);
  const auto in_three = static_cast<size_t>(std::find(layer.g_idx.begin(), layer.g_idx.end(), 3) - layer.g_idx.begin());
  EXPECT_EQ(AskError(With<int32_t>(Gptq(), "x.g_idx", in_three, 4)),
            "tensor x.g_idx: group 3 has 31 inputs, 32 expected");
  EXPECT_EQ(AskError(With<int32_t>(Gptq(), "x.g_idx", 7, -1)),
            "tensor x.g_idx: input 7 is in group -1; groups are 0 to 7");
  EXPECT_EQ(AskError(With<int32_t>(Gptq(), "x.g_idx", 255, 8)),
            "tensor x.g_idx: input 255 is in group 8; groups are 0 to 7");
  QuantisedModel ordered = Packed();
  ordered.file.Add("x.weight_g_idx", "I32", {kIn}, std::vector<int32_t>(kIn, -1));
  EXPECT_EQ(AskError(ordered), "tensor x.weight_g_idx: input 0 is in group -1; groups are 0 to 7");
}

TEST(QuantisedDamage, ScalesThatAreNotFinite) {
  EXPECT_EQ(ReadError(With<uint16_t>(Awq(), "x.scales", 511, 0x7e00)),
            "tensor x.scales holds NaN; scales must be finite");
  EXPECT_EQ(ReadError(With<uint16_t>(Awq(), "x.scales", 0, 0xfc00)),
            "tensor x.scales holds infinity; scales must be finite");
  EXPECT_EQ(ReadError(With<uint16_t>(Gptq(8), "x.scales", 100, 0x7c01)),
            "tensor x.scales holds NaN; scales must be finite");  // expanded
  EXPECT_EQ(ReadError(With<uint16_t>(Packed(), "x.weight_scale", 9, 0x7f80)),
            "tensor x.weight_scale holds infinity; scales must be finite");
  EXPECT_THAT(ReadError(With<uint16_t>(Packed(), "x.weight_scale", 9, 0x7f7f)),
              HasSubstr("tensor x.weight_scale holds 3.38953e+38; weights of that scale are not finite"));
  EXPECT_EQ(ReadError(With<uint16_t>(Int8(), "x.weight_scale", 63, 0x7fc0)),
            "tensor x.weight_scale holds NaN; scales must be finite");
  EXPECT_EQ(ReadError(With(Fp8(), "x.weight_scale_inv", 7, std::numeric_limits<float>::quiet_NaN())),
            "tensor x.weight_scale_inv holds NaN; scales must be finite");
  for (const uint8_t nan : {uint8_t{0x7f}, uint8_t{0xff}}) {
    EXPECT_EQ(ReadError(With<uint8_t>(Fp8(), "x.weight", kOut * kIn - 1, nan)),
              "tensor x.weight holds NaN; weights must be finite");
  }
}

TEST(QuantisedDamage, OneLayerInTwoForms) {
  QuantisedModel model = Awq();
  model.file.Add("x.weight", "F32", {1, 1}, std::vector<float>{1});
  EXPECT_EQ(ReadError(model), "tensor x.weight is there twice: as x.weight and as x.qweight");
  model = Packed();
  model.file.Add("x.weight", "I8", {1, 1}, std::vector<int8_t>{1});
  EXPECT_THAT(ReadError(model), HasSubstr("tensor x.weight is there twice"));
}

// What the model's own configuration asks for is compared by the caller, which puts the file before this.
TEST(QuantisedDamage, ShapesThatTheModelDoesNotAskFor) {
  const auto fault = [](QuantisedModel model, const Shape& expected) {
    const auto files = model.Open();
    EXPECT_NE(files->tensors()->Find("x.weight")->shape, expected);
    return files->tensors()->ShapeFault("x.weight", expected);
  };
  EXPECT_EQ(fault(Awq(), {1024, 2048}),
            "tensor x.qweight has shape [256, 8]; awq with 2048 inputs and 1024 outputs at 4 bits needs [2048, 128]");
  EXPECT_EQ(fault(Gptq(), {1024, 2048}),
            "tensor x.qweight has shape [32, 64]; gptq with 2048 inputs and 1024 outputs at 4 bits needs [256, 1024]");
  EXPECT_EQ(fault(Packed(), {1024, 2048}), "tensor x.weight_shape holds [64, 256]; the config asks for [1024, 2048]");
  EXPECT_EQ(fault(Int8(), {1024, 2048}), "tensor x.weight has shape [64, 256]; the config asks for [1024, 2048]");
  EXPECT_EQ(fault(Awq(), {2048}), "tensor x.weight has shape [64, 256]; the config asks for [2048]");
  // A file of the other packing: found with another shape, never read as it is not.
  QuantisedModel gptq = Gptq();
  gptq.quantization = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", kGroup}};
  EXPECT_EQ(fault(gptq, {kOut, kIn}),
            "tensor x.qweight has shape [32, 64]; awq with 256 inputs and 64 outputs at 4 bits needs [256, 8]");
}

}  // namespace
}  // namespace purekv

#include "checkpoint/quantised_tensors.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/threads.h"
#include "checkpoint/quantised_testing.h"

namespace purekv {
namespace {

using testing::AddAwq;
using testing::AddGptq;
using testing::AddInt8;
using testing::AddPacked;
using testing::AllRows;
using testing::Compressed;
using ::testing::ElementsAre;
using testing::ExpectSameBits;
using testing::MakeLayer;
using testing::Order;
using testing::QuantisedModel;
using testing::RandomLayer;
using testing::W4G;
using testing::W8C;
using testing::W8G;
using testing::Weights;
using testing::Zeros;

// What is expected of one layer.
struct Expectation {
  std::optional<QuantLayout> layout;  // nullopt: expanded
  std::string why;
  std::string format;
  QuantisedTensor form;
};

void CheckLayer(const TensorSource& source, const std::string& name, const RandomLayer& layer,
                const Expectation& expected) {
  SCOPED_TRACE(expected.format);
  ASSERT_TRUE(source.Find(name).has_value());
  EXPECT_EQ(source.Find(name)->shape, (Shape{layer.out, layer.in}));
  const auto form = source.Quantised(name);
  ASSERT_TRUE(form.has_value());
  EXPECT_EQ(form->why_expanded, expected.why);
  EXPECT_EQ(form->bits, layer.bits);
  EXPECT_EQ(form->group, layer.group == layer.in ? 0 : layer.group);
  const TensorData tensor = source.Read(name);
  ASSERT_NE(tensor.reader, nullptr);
  EXPECT_EQ(tensor.reader->format(), expected.format);
  EXPECT_TRUE(tensor.reader->CheckFinite());
  const QuantMatrix* quant = tensor.reader->quant();
  ASSERT_EQ(quant != nullptr, expected.layout.has_value());
  if (quant != nullptr) {
    EXPECT_EQ(quant->layout(), *expected.layout);
  }
  ExpectSameBits(AllRows(tensor), layer.Weights(), expected.format);
  source.Release(name);
}

TEST(QuantisedTensors, AwqOfEveryGroup) {
  for (const int64_t group : {32, 64, 128, 256, -1, 96, 16}) {
    for (const std::string dtype : {"F16", "BF16"}) {
      const Dtype type = dtype == "F16" ? Dtype::kF16 : Dtype::kBF16;
      const RandomLayer layer = MakeLayer(72, 768, group, 4, Zeros::kAny, dtype);
      QuantisedModel model;
      AddAwq(&model.file, "model.layers.0.mlp.up_proj", layer, dtype);
      model.quantization = {{"quant_method", "awq"}, {"version", "GEMM"}, {"bits", 4}, {"group_size", group}};
      const auto files = model.Open();
      const std::string shared = group == -1 ? "a scale per output" : "groups of " + std::to_string(group);
      Expectation expected{std::nullopt, "", "awq 4 bits, " + shared, {}};
      if (group == 96 || group == 16) {
        expected.why = shared;
      } else {
        expected.layout = W4G(group == -1 ? 128 : std::min<int64_t>(group, 128), type);
      }
      CheckLayer(*files->tensors(), "model.layers.0.mlp.up_proj.weight", layer, expected);
    }
  }
}

TEST(QuantisedTensors, GptqOfBothVersionsWithAndWithoutOrder) {
  for (const int version : {1, 2}) {
    for (const bool symmetric : {true, false}) {
      for (const Order order : {Order::kPlain, Order::kShuffled}) {
        for (const int64_t group : {32, 128, 256, 48}) {
          const RandomLayer layer =
              MakeLayer(40, 768, group, 4, symmetric ? Zeros::kSymmetric : Zeros::kAny, "F16", order);
          QuantisedModel model;
          AddGptq(&model.file, "x", layer, "F16", version);
          model.quantization = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", group}, {"sym", symmetric}};
          if (version == 2) model.quantization["checkpoint_format"] = "gptq_v2";
          const std::string shared = "groups of " + std::to_string(group);
          Expectation expected{std::nullopt, "", "gptq 4 bits, " + shared, {}};
          if (group == 48) {
            expected.why = shared;
          } else {
            expected.layout = W4G(std::min<int64_t>(group, 128), Dtype::kF16);
          }
          const auto files = model.Open();
          CheckLayer(*files->tensors(), "x.weight", layer, expected);
          const TensorData tensor = files->tensors()->Read("x.weight");
          if (const QuantMatrix* quant = tensor.reader->quant()) {
            EXPECT_EQ(quant->perm().empty(), order == Order::kPlain);
            // Stable: within a group inputs stay in order.
            for (size_t i = 1; i < quant->perm().size(); ++i) {
              const auto before = static_cast<size_t>(quant->perm()[i - 1]), at = static_cast<size_t>(quant->perm()[i]);
              EXPECT_TRUE(layer.g_idx[before] < layer.g_idx[at] ||
                          (layer.g_idx[before] == layer.g_idx[at] && before < at));
            }
          }
        }
      }
    }
  }
}

TEST(QuantisedTensors, GptqOfEightBits) {
  const auto check = [](Zeros zeros, bool says_symmetric, int64_t group, const Expectation& expected) {
    const RandomLayer layer = MakeLayer(36, 256, group, 8, zeros, "F16", Order::kPlain, 7);
    QuantisedModel model;
    AddGptq(&model.file, "x", layer, "F16", 1);
    model.quantization = {
        {"quant_method", "gptq"}, {"bits", 8}, {"group_size", group}, {"sym", says_symmetric}, {"desc_act", false}};
    const auto files = model.Open();
    CheckLayer(*files->tensors(), "x.weight", layer, expected);
  };
  const std::string groups = "gptq 8 bits, groups of 64";
  check(Zeros::kSymmetric, true, 64, {W8G(64, Dtype::kF16), "", groups, {}});
  check(Zeros::kSymmetric, false, 64, {W8G(64, Dtype::kF16), "", groups, {}});  // its zero points say so
  check(Zeros::kAny, false, 64, {std::nullopt, "8 bits with zero points", groups, {}});
  check(Zeros::kSymmetric, true, -1, {W8C(256), "", "gptq 8 bits, a scale per output", {}});
}

TEST(QuantisedTensors, GptqWithoutGroupListZerosOrFields) {
  const RandomLayer layer = MakeLayer(33, 128, 32, 4, Zeros::kSymmetric, "F16");  // outputs fill no word
  QuantisedModel model;
  AddGptq(&model.file, "x", layer, "F16", 1);
  model.file.tensors.erase("x.g_idx");
  model.file.tensors.erase("x.qzeros");
  model.quantization = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 32}, {"sym", true}};
  const Expectation expected{W4G(32, Dtype::kF16), "", "gptq 4 bits, groups of 32", {}};
  CheckLayer(*model.Open()->tensors(), "x.weight", layer, expected);

  // Bits and groups as the shapes have them.
  for (const int bits : {4, 8}) {
    const RandomLayer other = MakeLayer(32, 128, 32, bits, Zeros::kSymmetric, "F16");
    for (const std::string left_out : {"x.g_idx", "x.qzeros"}) {
      QuantisedModel bare;
      AddGptq(&bare.file, "x", other, "F16", 1);
      bare.file.tensors.erase(left_out);
      bare.quantization = {{"quant_method", "gptq"}, {"sym", left_out == "x.qzeros"}};
      CheckLayer(*bare.Open()->tensors(), "x.weight", other,
                 {bits == 4 ? W4G(32, Dtype::kF16) : W8G(32, Dtype::kF16),
                  "",
                  "gptq " + std::to_string(bits) + " bits, groups of 32",
                  {}});
    }
  }
}

TEST(QuantisedTensors, PackedIntegers) {
  for (const bool symmetric : {true, false}) {
    for (const int64_t group : {32, 128, 384, 24, -1}) {
      const RandomLayer layer = MakeLayer(35, 384, group, 4, symmetric ? Zeros::kSymmetric : Zeros::kAny, "BF16");
      QuantisedModel model;
      AddPacked(&model.file, "x", layer, "BF16", symmetric);
      model.quantization =
          Compressed("pack-quantized", Weights(4, group == -1 ? "channel" : "group", group, symmetric));
      const bool whole = layer.group == layer.in;
      const std::string shared = whole ? "a scale per output" : "groups of " + std::to_string(group);
      Expectation expected{std::nullopt, "", "compressed-tensors 4 bits, " + shared, {}};
      if (group == 24) {
        expected.why = shared;
      } else {
        expected.layout = W4G(whole ? 128 : std::min<int64_t>(group, 128), Dtype::kBF16);
      }
      CheckLayer(*model.Open()->tensors(), "x.weight", layer, expected);
    }
  }
}

TEST(QuantisedTensors, PackedIntegersOfEightBits) {
  const auto check = [](bool symmetric, int64_t group, const Expectation& expected) {
    const RandomLayer layer = MakeLayer(9, 256, group, 8, symmetric ? Zeros::kSymmetric : Zeros::kAny, "F16");
    QuantisedModel model;
    AddPacked(&model.file, "x", layer, "F16", symmetric);
    model.quantization = Compressed("pack-quantized", Weights(8, group == -1 ? "channel" : "group", group, symmetric));
    CheckLayer(*model.Open()->tensors(), "x.weight", layer, expected);
  };
  const std::string groups = "compressed-tensors 8 bits, groups of 64";
  check(true, 64, {W8G(64, Dtype::kF16), "", groups, {}});
  check(false, 64, {std::nullopt, "8 bits with zero points", groups, {}});
  check(true, -1, {W8C(256), "", "compressed-tensors 8 bits, a scale per output", {}});
}

// Inputs that fill no word, an ordered layer, zero points as bytes, and one in a group of its own in the configuration.
TEST(QuantisedTensors, PackedIntegersOfOtherShapes) {
  const RandomLayer odd = MakeLayer(5, 101, -1, 4, Zeros::kSymmetric, "BF16");
  const RandomLayer ordered = MakeLayer(6, 128, 32, 4, Zeros::kAny, "BF16", Order::kShuffled);
  const RandomLayer wide = MakeLayer(6, 128, 32, 8, Zeros::kSymmetric, "BF16");
  QuantisedModel model;
  AddPacked(&model.file, "odd", odd, "BF16", true);
  AddPacked(&model.file, "ordered", ordered, "BF16", false);
  model.file.Add("ordered.weight_g_idx", "I32", {128}, ordered.g_idx);
  std::vector<int8_t> zeros;
  for (const int zero : ordered.zeros) zeros.push_back(static_cast<int8_t>(zero - 8));
  model.file.Add("ordered.weight_zero_point", "I8", {6, 4}, zeros);
  AddPacked(&model.file, "wide", wide, "BF16", true);
  model.quantization = Compressed("mixed-precision", Weights(4, "channel", 0, true));
  Json& groups = model.quantization["config_groups"];
  groups["group_0"]["format"] = "pack-quantized";
  groups["group_1"] = Weights(4, "group", 32, false);
  groups["group_1"]["format"] = "pack-quantized";
  groups["group_1"]["weights"]["actorder"] = "group";
  groups["group_2"] = Weights(8, "group", 32, true);
  const auto files = model.Open();
  const TensorSource& source = *files->tensors();
  CheckLayer(source, "odd.weight", odd,
             {std::nullopt, "groups of 101", "compressed-tensors 4 bits, a scale per output", {}});
  CheckLayer(source, "ordered.weight", ordered,
             {W4G(32, Dtype::kBF16), "", "compressed-tensors 4 bits, groups of 32", {}});
  CheckLayer(source, "wide.weight", wide, {W8G(32, Dtype::kBF16), "", "compressed-tensors 8 bits, groups of 32", {}});

  // Zero points that four bits do not hold: expanded.
  zeros[3] = 9;
  model.file.Add("ordered.weight_zero_point", "I8", {6, 4}, zeros);
  RandomLayer beyond = ordered;
  beyond.zeros[3] = 17;
  CheckLayer(*model.Open()->tensors(), "ordered.weight", beyond,
             {std::nullopt, "zero points beyond the codes", "compressed-tensors 4 bits, groups of 32", {}});
}

TEST(QuantisedTensors, BytesPerOutput) {
  for (const std::string dtype : {"F16", "BF16", "F32"}) {
    const RandomLayer layer = MakeLayer(7, 90, -1, 8, Zeros::kSymmetric, dtype);
    QuantisedModel model;
    AddInt8(&model.file, "x", layer, dtype, true);
    model.quantization = Compressed("int-quantized", Weights(8, "channel", 0, true));
    CheckLayer(*model.Open()->tensors(), "x.weight", layer,
               {W8C(90), "", "compressed-tensors 8 bits, a scale per output", {}});
    // Zero points that are all none.
    AddInt8(&model.file, "x", layer, dtype, false);
    CheckLayer(*model.Open()->tensors(), "x.weight", layer,
               {W8C(90), "", "compressed-tensors 8 bits, a scale per output", {}});
  }
  const RandomLayer asymmetric = MakeLayer(7, 90, -1, 8, Zeros::kAny, "F32");
  QuantisedModel model;
  AddInt8(&model.file, "x", asymmetric, "F32", false);
  model.quantization = Compressed("int-quantized", Weights(8, "channel", 0, false));
  CheckLayer(*model.Open()->tensors(), "x.weight", asymmetric,
             {std::nullopt, "8 bits with zero points", "compressed-tensors 8 bits, a scale per output", {}});
}

TEST(QuantisedTensors, BytesWithOneScaleForAll) {
  RandomLayer layer = MakeLayer(4, 64, -1, 8, Zeros::kSymmetric, "F32");
  std::fill(layer.scales.begin(), layer.scales.end(), 0.01F);
  QuantisedModel model;
  AddInt8(&model.file, "x", layer, "F32", true);
  model.file.Add("x.weight_scale", "F32", {1}, std::vector<float>{0.01F});
  model.quantization = Compressed("int-quantized", Weights(8, "tensor", 0, true));
  CheckLayer(*model.Open()->tensors(), "x.weight", layer,
             {W8C(64), "", "compressed-tensors 8 bits, a scale per output", {}});
}

// Groups want 16-bit scales: f32 ones are kept where either type holds all of them.
TEST(QuantisedTensors, WideScalesAreKeptWhereTheyAreNarrow) {
  const auto check = [](const std::string& rounded, const Expectation& expected) {
    RandomLayer layer = MakeLayer(32, 128, 32, 4, Zeros::kAny, rounded);
    if (rounded == "BF16") layer.scales[5] = 0x1p-40F;  // f16 ends above
    QuantisedModel model;
    AddAwq(&model.file, "x", layer, "F32");
    model.quantization = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 32}};
    CheckLayer(*model.Open()->tensors(), "x.weight", layer, expected);
  };
  const std::string format = "awq 4 bits, groups of 32";
  check("F16", {W4G(32, Dtype::kF16), "", format, {}});
  check("BF16", {W4G(32, Dtype::kBF16), "", format, {}});
  check("F32", {std::nullopt, "scales that no 16-bit type holds", format, {}});
}

// e4m3 by its definition.
float E4M3(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const double magnitude = exponent == 0 ? mantissa / 8.0 * 0x1p-6 : (1 + mantissa / 8.0) * std::exp2(exponent - 7);
  return static_cast<float>(code & 128 ? -magnitude : magnitude);
}

struct Fp8Layer {
  int64_t out = 0, in = 0;
  std::vector<uint8_t> codes;
};
Fp8Layer MakeFp8(int64_t out, int64_t in) {
  Fp8Layer layer{out, in, {}};
  std::mt19937 random(3);
  while (layer.codes.size() < static_cast<size_t>(out * in)) {
    const auto code = static_cast<uint8_t>(random());
    if ((code & 127) != 127) layer.codes.push_back(code);
  }
  return layer;
}

void CheckFp8(QuantisedModel* model, const Fp8Layer& layer, const std::vector<float>& scales, int64_t b0, int64_t b1,
              const std::string& format) {
  model->file.Add("x.weight", "F8_E4M3", {layer.out, layer.in}, layer.codes);
  const auto files = model->Open();
  const TensorData tensor = files->tensors()->Read("x.weight");
  std::vector<float> expected;
  for (int64_t o = 0; o < layer.out; ++o) {
    for (int64_t k = 0; k < layer.in; ++k) {
      const int64_t at = o / b0 * ((layer.in + b1 - 1) / b1) + k / b1;
      expected.push_back(E4M3(layer.codes[static_cast<size_t>(o * layer.in + k)]) * scales[static_cast<size_t>(at)]);
    }
  }
  EXPECT_EQ(tensor.reader->quant(), nullptr);
  EXPECT_EQ(tensor.reader->format(), format);
  EXPECT_TRUE(tensor.reader->CheckFinite());
  ExpectSameBits(AllRows(tensor), expected, format);
  const auto form = files->tensors()->Quantised("x.weight");
  EXPECT_EQ(form->why_expanded, "fp8");
  EXPECT_EQ(form->bits, 8);
  EXPECT_EQ(form->group, b1 < layer.in ? b1 : 0);
}

TEST(QuantisedTensors, Fp8) {
  const Fp8Layer layer = MakeFp8(70, 100);
  std::vector<float> scales;
  for (int i = 0; i < 70; ++i) scales.push_back(ToFloat(ToBF16(0.001F * static_cast<float>(i + 1))));
  QuantisedModel blocks;
  blocks.quantization = {{"quant_method", "fp8"}, {"weight_block_size", {32, 64}}};
  const std::vector<float> six(scales.begin(), scales.begin() + 6);
  blocks.file.AddScales("x.weight_scale_inv", "F32", {3, 2}, six);
  CheckFp8(&blocks, layer, six, 32, 64, "fp8, blocks of 32 x 64");

  QuantisedModel scalar;
  scalar.quantization = {{"quant_method", "fp8"}};
  scalar.file.AddScales("x.weight_scale", "BF16", {}, {scales[4]});
  scalar.file.AddScales("x.input_scale", "F32", {}, {1.0F});
  CheckFp8(&scalar, layer, {scales[4]}, 70, 100, "fp8, one scale");
  EXPECT_THAT(scalar.Open()->tensors()->Names(), ElementsAre("x.weight"));
  EXPECT_TRUE(IsUnusedScale("x.input_scale") && IsUnusedScale("a.self_attn.k_scale") && !IsUnusedScale("x.scales"));

  QuantisedModel channel;
  Json group = Weights(8, "channel", 0, true);
  group["weights"]["type"] = "float";
  channel.quantization = Compressed("float-quantized", group);
  channel.file.AddScales("x.weight_scale", "BF16", {70, 1}, scales);
  CheckFp8(&channel, layer, scales, 1, 100, "compressed-tensors fp8, a scale per output");
}

// What is not quantised is passed through, in whatever layout of names, and parts of layers have no names of their own.
TEST(QuantisedTensors, TheRestIsPassedThrough) {
  const RandomLayer layer = MakeLayer(32, 64, 32, 4, Zeros::kAny, "F16");
  QuantisedModel model;
  AddAwq(&model.file, "model.language_model.layers.0.self_attn.q_proj", layer, "F16");
  model.file.Add("model.language_model.layers.0.self_attn.q_proj.bias", "F32", {1}, std::vector<float>{2});
  model.file.Add("model.language_model.norm.weight", "F32", {1}, std::vector<float>{3});
  model.file.Add("model.visual.blocks.0.scales", "F32", {1}, std::vector<float>{4});
  model.file.Add("odd", "U16", {1}, std::vector<uint16_t>{4});
  model.quantization = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 32}};
  const auto files = model.Open();
  const TensorSource& source = *files->tensors();
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  EXPECT_THAT(source.Names(), ElementsAre("model.layers.0.self_attn.q_proj.bias", name, "model.norm.weight", "odd",
                                          "visual.blocks.0.scales"));
  CheckLayer(source, name, layer, {W4G(32, Dtype::kF16), "", "awq 4 bits, groups of 32", {}});
  EXPECT_EQ(source.Describe(name), model.weights());
  EXPECT_FALSE(source.Find("model.layers.0.self_attn.q_proj.qweight").has_value());
  EXPECT_FALSE(source.Quantised("model.norm.weight").has_value());
  EXPECT_EQ(source.Read("model.norm.weight").reader, nullptr);
  EXPECT_THAT(testing::ErrorOf([&] { source.Find("odd"); }), ::testing::HasSubstr("tensor odd is U16; supported"));
  EXPECT_EQ(files->ListTensors().size(), 7u);
  EXPECT_FALSE(source.Int8Activations());
  // The tensor keeps what it reads, whatever becomes of the source.
  TensorData tensor = source.Read(name);
  EXPECT_EQ(tensor.further.size(), 2u);
  EXPECT_EQ(tensor.bytes.size(), 64u * 4 * 4);
}

TEST(QuantisedTensors, ATensorOutlivesItsSource) {
  const RandomLayer layer = MakeLayer(32, 64, 32, 4, Zeros::kAny, "F16");
  TensorData tensor;
  {
    QuantisedModel model;
    AddAwq(&model.file, "x", layer, "F16");
    model.quantization = {{"quant_method", "awq"}, {"bits", 4}};
    tensor = model.Open()->tensors()->Read("x.weight");
  }
  ExpectSameBits(AllRows(tensor), layer.Weights(), "x");
}

// Blocks are unpacked per thread, and two matrices in turn, as panels of gated layers take them.
TEST(QuantisedTensors, RowsInAnyOrderFromManyThreads) {
  const RandomLayer gate = MakeLayer(200, 128, 32, 4, Zeros::kAny, "F16", Order::kShuffled, 1);
  const RandomLayer up = MakeLayer(200, 128, 32, 4, Zeros::kAny, "F16", Order::kPlain, 2);
  const RandomLayer third = MakeLayer(200, 128, 32, 4, Zeros::kAny, "F16", Order::kPlain, 3);
  const std::vector<const RandomLayer*> layers = {&gate, &up, &third};
  QuantisedModel model;
  for (size_t i = 0; i < 3; ++i) AddGptq(&model.file, "x" + std::to_string(i), *layers[i], "F16", 1);
  model.quantization = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 32}, {"sym", false}};
  const auto files = model.Open();
  std::vector<TensorData> tensors;
  std::vector<std::vector<float>> weights;
  for (size_t i = 0; i < 3; ++i) {
    tensors.push_back(files->tensors()->Read("x" + std::to_string(i) + ".weight"));
    weights.push_back(layers[i]->Weights());
  }
  SetThreads(4);
  std::atomic<int> wrong{0};
  ParallelFor(3000, [&](int64_t i) {
    const auto which = static_cast<size_t>(i % 3);
    const int64_t row = i * 7919 / 16 % 200;
    std::vector<float> values(128);
    tensors[which].reader->Read(row, 1, values.data());
    if (!std::equal(values.begin(), values.end(), weights[which].begin() + row * 128)) ++wrong;
  });
  EXPECT_EQ(wrong, 0);
}

// A matrix at the address of one that is gone must not find its blocks.
TEST(QuantisedTensors, BlocksOfAMatrixThatIsGoneServeNoOther) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    const RandomLayer layer = MakeLayer(32, 64, 32, 4, Zeros::kAny, "F16", Order::kPlain, seed);
    QuantisedModel model;
    AddAwq(&model.file, "x", layer, "F16");
    model.quantization = {{"quant_method", "awq"}, {"bits", 4}};
    ExpectSameBits(AllRows(model.Open()->tensors()->Read("x.weight")), layer.Weights(), "x");
  }
}

}  // namespace
}  // namespace purekv

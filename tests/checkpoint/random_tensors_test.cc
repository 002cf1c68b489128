#include "checkpoint/random_tensors.h"

#include <gmock/gmock.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/threads.h"
#include "checkpoint/checkpoint_testing.h"
#include "checkpoint/json.h"

namespace purekv {
namespace {

using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;

uint32_t Crc32(const void* data, size_t size) {
  uint32_t crc = 0xffffffffu;
  for (size_t i = 0; i < size; ++i) {
    crc ^= static_cast<const unsigned char*>(data)[i];
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1u ? 0xedb88320u : 0u);
  }
  return ~crc;
}

// Every tensor of a reference model, against what NumPy made of the same rule.
class RandomTensorsReference : public ::testing::TestWithParam<const char*> {};

TEST_P(RandomTensorsReference, EqualsNumPyBitForBit) {
  const std::string dir = std::string(PUREKV_TEST_DATA) + "/reference/" + GetParam();
  const Json weights = ReadJson(dir + "/weights.json"), description = ReadJson(dir + "/case.json");
  const std::string type = description["dtype"];
  const Dtype dtype = type == "f32" ? Dtype::kF32 : type == "bf16" ? Dtype::kBF16 : Dtype::kF16;
  ASSERT_EQ(DtypeName(dtype), type);
  std::vector<TensorSpec> specs;
  for (const auto& [name, value] : weights.items()) specs.push_back({name, value["shape"].get<Shape>()});
  ASSERT_GT(specs.size(), 20u);
  const auto source = RandomTensors(specs, description["seed"].get<uint64_t>(), dtype);
  for (const TensorSpec& spec : specs) {
    size_t count = 1;
    for (int64_t dimension : spec.shape) count *= static_cast<size_t>(dimension);
    const TensorData tensor = source->Read(spec.name);
    EXPECT_EQ(tensor.info.shape, spec.shape);
    EXPECT_EQ(Crc32(tensor.bytes.data(), count * DtypeSize(dtype)), weights[spec.name]["crc32"].get<uint32_t>())
        << spec.name;
    const std::vector<float> values = RandomTensor(spec.name, spec.shape, description["seed"].get<uint64_t>());
    const auto first = weights[spec.name]["first"].get<std::vector<double>>();
    for (size_t i = 0; i < first.size(); ++i) EXPECT_EQ(values[i], static_cast<float>(first[i])) << spec.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, RandomTensorsReference,
                         ::testing::Values("qwen2_vl", "qwen2_5_vl_flat", "qwen2_5_vl_nested", "qwen2_5_vl_v5"));

TEST(RandomTensors, DoNotDependOnThreads) {
  const int threads = Threads();
  SetThreads(1);
  const auto one = RandomTensor("model.x.weight", {1000, 301}, 9);
  SetThreads(3);
  const auto three = RandomTensor("model.x.weight", {1000, 301}, 9);
  SetThreads(threads);
  EXPECT_EQ(std::memcmp(one.data(), three.data(), one.size() * sizeof(float)), 0);
}

TEST(RandomTensors, HaveTheRulesSpread) {
  const auto spread = [](const std::string& name, const Shape& shape) {
    double sum = 0, squares = 0;
    const auto values = RandomTensor(name, shape, 1);
    for (float value : values) {
      sum += value;
      squares += static_cast<double>(value) * value;
    }
    const double mean = sum / static_cast<double>(values.size());
    return std::array<double, 2>{mean, squares / static_cast<double>(values.size()) - mean * mean};
  };
  EXPECT_NEAR(spread("a.bias", {40000})[0], 0, 0.003);
  EXPECT_NEAR(spread("a.bias", {40000})[1], 0.01, 0.0005);
  EXPECT_NEAR(spread("norm.weight", {40000})[0], 1, 0.003);
  EXPECT_NEAR(spread("norm.weight", {40000})[1], 0.01, 0.0005);
  EXPECT_NEAR(spread("w", {400, 4, 25})[0], 0, 0.003);
  EXPECT_NEAR(spread("w", {400, 4, 25})[1], 2.25 / 100, 0.001);
}

TEST(RandomTensors, SourceNamesAndRefuses) {
  const auto source = RandomTensors({{"b", {2}}, {"a", {2, 0}}}, 3, Dtype::kF16);
  EXPECT_THAT(source->Names(), ElementsAre("a", "b"));
  EXPECT_EQ(source->Find("b")->dtype, Dtype::kF16);
  EXPECT_FALSE(source->Find("c").has_value());
  EXPECT_THAT(source->Read("a").info.shape, ElementsAre(2, 0));
  EXPECT_THAT(ErrorOf([&] { source->Read("c"); }), HasSubstr("tensor c is missing"));
  EXPECT_THAT(ErrorOf([] { RandomTensors({{"a", {1}}, {"a", {1}}}, 3, Dtype::kF32); }), HasSubstr("twice"));
  EXPECT_THAT(ErrorOf([] { RandomTensors({{"a", {-1}}}, 3, Dtype::kF32); }), HasSubstr("impossible shape [-1]"));
  EXPECT_THAT(ErrorOf([] { RandomTensors({{"a", {INT64_MAX, 2}}}, 3, Dtype::kF32); }), HasSubstr("impossible shape"));
}

TEST(ShapeName, IsAList) {
  EXPECT_EQ(ShapeName({}), "[]");
  EXPECT_EQ(ShapeName({3, 4}), "[3, 4]");
}

}  // namespace
}  // namespace purekv

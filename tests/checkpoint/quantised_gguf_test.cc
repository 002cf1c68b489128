#include <algorithm>
#include <tuple>

#include "checkpoint/quantised_tensors.h"
#include "checkpoint/quantised_testing.h"

namespace purekv {
namespace {

using testing::AllRows;
using testing::ExpectSameBits;
using testing::GgufOf;
using testing::ScratchDir;
using testing::W4G;
using testing::W8G;

struct GgufForm {
  GgmlType type;
  QuantLayout layout;
  std::vector<size_t> numbers_at;  // of f16 in a block
};

TEST(QuantisedTensors, GgufBlocksAsCodes) {
  const std::vector<GgufForm> forms = {
      {GgmlType::kQ8_0, W8G(32, Dtype::kF16), {0}},
      {GgmlType::kQ4_0, W4G(32, Dtype::kF16), {0}},
      {GgmlType::kQ4_1, {QuantStorage::kW4M, 32, Dtype::kF16}, {0, 2}},
      {GgmlType::kQ5_0, W8G(32, Dtype::kF16), {0}},
      {GgmlType::kQ4_K, {QuantStorage::kW4K, 32, Dtype::kF16}, {0, 2}},
      {GgmlType::kQ6_K, {QuantStorage::kW8K, 16, Dtype::kF16}, {208}},
  };
  for (const auto& [type, layout, numbers_at] : forms) {
    const auto bytes = static_cast<size_t>(GgmlBlockBytes(type));
    const int64_t rows = 16, inputs = GgmlBlockElements(type), in = 3 * inputs;
    std::mt19937 random(5);
    std::string blocks;
    for (int64_t block = 0; block < rows * in / inputs; ++block) {
      std::string one;
      while (one.size() < bytes) one += static_cast<char>(random());
      for (const size_t at : numbers_at) {
        one.replace(at, 2, GgufWriter::Bits(static_cast<uint16_t>(random() & 0xbbff)));  // finite, either sign
      }
      blocks += one;
    }
    // q_proj of arch llama: rows of heads of 8 are interleaved.
    for (const int64_t head_dim : {0, 8}) {
      GgufLayout order;
      order.interleaved_head_dim = head_dim;
      const ScratchDir dir;
      const auto source = GgufOf(dir, "blk.0.attn_q.weight", {rows, in}, type, blocks, order);
      const std::string name = "model.layers.0.self_attn.q_proj.weight";
      const TensorData tensor = source->Read(name);
      std::vector<float> expected(static_cast<size_t>(rows * in));
      const size_t row_bytes = bytes * static_cast<size_t>(in / inputs);
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t half = head_dim / 2, inside = head_dim > 0 ? row % head_dim : 0;
        const int64_t stored = head_dim > 0 ? row - inside + 2 * (inside % half) + inside / half : row;
        ExpandGgml(type, std::as_bytes(std::span(blocks)).subspan(static_cast<size_t>(stored) * row_bytes, row_bytes),
                   std::span(expected).subspan(static_cast<size_t>(row * in), static_cast<size_t>(in)));
      }
      ASSERT_NE(tensor.reader->quant(), nullptr);
      EXPECT_EQ(tensor.reader->quant()->layout(), layout);
      EXPECT_TRUE(tensor.reader->CheckFinite());
      ExpectSameBits(AllRows(tensor), expected, GgmlTypeName(type));
      EXPECT_EQ(source->Quantised(name)->why_expanded, "");
      EXPECT_EQ(source->Quantised(name)->group, layout.group);
    }
    for (const size_t at : numbers_at) {
      std::string spoiled = blocks;
      spoiled[bytes * 5 + at + 1] = 0x7e;
      const ScratchDir dir;
      const auto source = GgufOf(dir, "blk.0.attn_q.weight", {rows, in}, type, spoiled);
      const auto check = [&] { source->Read("model.layers.0.self_attn.q_proj.weight").reader->CheckFinite(); };
      EXPECT_EQ(testing::ErrorOf(check), dir.File("m.gguf") +
                                             ": tensor model.layers.0.self_attn.q_proj.weight holds NaN or infinity; "
                                             "weights must be finite");
    }
  }
}

TEST(QuantisedTensors, GgufBlocksThatAreExpanded) {
  const std::vector<std::tuple<GgmlType, int, int64_t, std::string>> types = {
      {GgmlType::kQ5_1, 5, 32, "5 bits with a minimum"}, {GgmlType::kQ5_K, 5, 32, "5 bits with a minimum"}};
  for (const auto& [type, bits, group, why] : types) {
    const ScratchDir dir;
    const int64_t blocks = 256 / GgmlBlockElements(type);
    const auto source = GgufOf(dir, "output.weight", {1, 256}, type,
                               std::string(static_cast<size_t>(blocks * GgmlBlockBytes(type)), '\0'));
    const auto form = source->Quantised("lm_head.weight");
    ASSERT_TRUE(form.has_value()) << why;
    EXPECT_EQ(form->format, GgmlTypeName(type));
    EXPECT_EQ(form->bits, bits);
    EXPECT_EQ(form->group, group);
    EXPECT_EQ(form->why_expanded, why);
    EXPECT_EQ(source->Read("lm_head.weight").reader->quant(), nullptr);
  }
  const ScratchDir dir;
  const auto plain = GgufOf(dir, "output.weight", {1, 1}, GgmlType::kF32, std::string(4, '\0'));
  EXPECT_FALSE(plain->Quantised("lm_head.weight").has_value());
  EXPECT_EQ(plain->method(), "");
}

}  // namespace
}  // namespace purekv

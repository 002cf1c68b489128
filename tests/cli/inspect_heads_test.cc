// purekv inspect --heads: which heads copy, as text and as JSON.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/run_cli.h"

namespace purekv::testing {
namespace {

TEST(InspectHeads, AreMeasuredAndSharesOfAttention) {
  const std::string model = std::string(PUREKV_SOURCE_DIR) + "/models/demo";
  const CliResult result = RunCli({"inspect", "-m", model, "--heads", "--json", "-"});
  ASSERT_EQ(result.status, 0) << result.err;
  const nlohmann::json json = nlohmann::json::parse(result.out);
  const auto shares = json["copying_heads"].get<std::vector<std::vector<double>>>();
  ASSERT_EQ(shares.size(), json["model"]["layers"].get<size_t>());
  double most = 0;
  for (const auto& heads : shares) {
    ASSERT_EQ(heads.size(), json["model"]["kv_heads"].get<size_t>());
    for (const double share : heads) {
      EXPECT_GE(share, 0);
      EXPECT_LE(share, 1);
      most = std::max(most, share);
    }
  }
  EXPECT_GT(most, 0);
  const CliResult text = RunCli({"inspect", "-m", model, "--heads"});
  EXPECT_THAT(text.out, ::testing::HasSubstr("  copying    0   "));
  EXPECT_FALSE(nlohmann::json::parse(RunCli({"inspect", "-m", model, "--json", "-"}).out).contains("copying_heads"));
}

}  // namespace
}  // namespace purekv::testing

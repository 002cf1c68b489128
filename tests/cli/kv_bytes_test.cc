// --kv-bytes on the demo model, through the program: what the result object says was allocated stays below it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/run_cli.h"

namespace purekv::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

const char* const kModel = PUREKV_SOURCE_DIR "/models/demo";
const char* const kVideo = PUREKV_SOURCE_DIR "/models/demo/eval/short-00.mp4";  // 232 tokens with this question

CliResult Ask(const std::vector<std::string>& flags) {
  std::vector<std::string> all = {"ask", "-m", kModel,   "--video", kVideo,    "-p",  "What happens?",
                                  "-n",  "12", "--json", "-",       "--dtype", "bf16"};
  all.insert(all.end(), flags.begin(), flags.end());
  return RunCli(all);
}

TEST(KvBytes, CapsTheCacheOfEveryAllocator) {
  const std::vector<std::vector<std::string>> policies = {
      {"snapkv"}, {"vnorm", "--kv-allocator", "ada"}, {"knorm", "--kv-allocator", "pyramid"}, {"streaming-llm"}};
  for (const auto& [size, bytes] : {std::pair{"64K", 64 << 10}, {"200K", 200 << 10}, {"1M", 1 << 20}}) {
    for (const auto& policy : policies) {
      std::vector<std::string> flags = {"--kv-bytes", size, "--kv-policy"};
      flags.insert(flags.end(), policy.begin(), policy.end());
      const CliResult result = Ask(flags);
      ASSERT_EQ(result.status, 0) << result.err;
      const Json kv = Json::parse(result.out)["kv"];
      EXPECT_LE(kv["bytes_kept"], bytes) << policy.back();
      EXPECT_GE(kv["bytes_kept"], bytes / 2 - 4096) << policy.back();  // a page of these small heads is much
      // Behind the answer the cache of a policy that holds is no larger.
      if (policy[0] == "streaming-llm") {
        EXPECT_LE(kv["bytes_now"], bytes);
      }
    }
  }
}

TEST(KvBytes, CapsThePeakWithChunks) {
  for (const auto& [size, bytes] : {std::pair{"64K", 64 << 10}, {"200K", 200 << 10}, {"1M", 1 << 20}}) {
    for (const char* const chunk : {"64", "77", "500"}) {
      if (bytes == 64 << 10 && std::string(chunk) == "500") continue;  // below
      const CliResult result = Ask({"--kv-bytes", size, "--kv-policy", "snapkv", "--kv-chunk", chunk});
      ASSERT_EQ(result.status, 0) << result.err;
      EXPECT_LE(Json::parse(result.out)["kv"]["bytes_peak"], bytes) << chunk;
    }
  }
}

TEST(KvBytes, SaysWhatWouldDo) {
  // One whole layer of 232 tokens alone takes 128 KiB; a token per layer and KV head in the other seven 3,584 bytes.
  const std::vector<std::string> large = {"--kv-policy", "snapkv", "--kv-chunk", "500", "--kv-bytes"};
  std::vector<std::string> flags = large;
  flags.push_back("64K");
  CliResult result = Ask(flags);
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("--kv-bytes 65536: "), HasSubstr("chunk of 232 tokens"),
                                HasSubstr("--kv-bytes 134656"), HasSubstr("--kv-chunk 95 ")));
  flags.back() = "134656";
  EXPECT_EQ(Ask(flags).status, 0);
  flags.back() = "134655";
  EXPECT_EQ(Ask(flags).status, 2);
  EXPECT_EQ(Ask({"--kv-policy", "snapkv", "--kv-chunk", "95", "--kv-bytes", "64K"}).status, 0);

  result = Ask({"--kv-policy", "snapkv", "--kv-bytes", "1000"});
  EXPECT_EQ(result.status, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("--kv-bytes 1000: "), HasSubstr("4096 is the least")));
  EXPECT_EQ(Ask({"--kv-policy", "snapkv", "--kv-bytes", "4096"}).status, 0);
}

}  // namespace
}  // namespace purekv::testing

// What config.json may say: published and re-saved forms are read, everything else is refused by name.
#include "models/qwen_config.h"

#include <gtest/gtest.h>

#include <functional>

#include "models/registry.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

Json Published() {
  return PublishedConfig("qwen2.5-vl-3b");
}

std::string ErrorOf(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string Refusal(const Json& config) {
  return ErrorOf([&] { PlanModel(*FilesOfShape("c.json", config)); });
}

TEST(QwenConfig, PublishedShapesHaveThePublishedSizes) {
  const std::vector<std::pair<const char*, double>> billions = {
      {"qwen2.5-vl-3b", 3.755}, {"qwen2.5-vl-7b", 8.292}, {"qwen2-vl-7b", 8.291}, {"qwen2-vl-2b", 2.209}};
  for (const auto& [shape, expected] : billions) {
    const Json config = PublishedConfig(shape);
    double total = 0;
    const auto files = FilesOfShape(shape, config);
    const auto plan = PlanModel(*files);
    for (const TensorSpec& spec : plan->tensors) {
      double count = 1;
      for (const int64_t dim : spec.shape) count *= static_cast<double>(dim);
      total += count;
    }
    EXPECT_NEAR(total / 1e9, expected, 0.002) << shape;
  }
}

TEST(QwenConfig, ReadsEveryCommittedForm) {
  for (const std::string& name : ReferenceCases()) {
    const std::string path = ReferencePath(name) + "/config.json";
    const Json config = ReadJson(path);
    const Json expected = ReadJson(ReferencePath(name) + "/case.json");
    const auto files = FilesOfShape(path, config);
    const auto plan = PlanModel(*files);
    EXPECT_EQ(plan->decoder.tied_embeddings, expected.at("tied").get<bool>()) << name;
    EXPECT_EQ(plan->tensors.size(), ReadJson(ReferencePath(name) + "/weights.json").size()) << name;
  }
}

TEST(QwenConfig, NamesWhatItRefuses) {
  const auto with = [](const char* pointer, const Json& value) {
    Json config = Published();
    config[Json::json_pointer(pointer)] = value;
    return config;
  };
  const auto without = [](const char* key) {
    Json config = Published();
    config.erase(key);
    return config;
  };
  const std::vector<std::pair<Json, const char*>> cases = {
      {with("/architectures", Json::array({"GPT2LMHeadModel"})), "GPT2LMHeadModel"},
      {with("/architectures", Json::array({7})), "architectures"},
      {with("/hidden_act", "gelu"), "hidden_act"},
      {with("/hidden_size", 2047), "hidden_size"},
      {with("/hidden_size", -1), "hidden_size"},
      {with("/hidden_size", 1e300), "hidden_size"},
      {with("/hidden_size", "2048"), "hidden_size"},
      {with("/num_key_value_heads", 3), "num_key_value_heads"},
      {with("/num_hidden_layers", 1000000), "num_hidden_layers"},
      {with("/rope_scaling/type", "yarn"), "yarn"},
      {with("/rope_scaling/mrope_section", Json::array({16, 24})), "mrope_section"},
      {with("/rope_scaling/mrope_section", Json::array({16, 24, 25})), "mrope_section"},
      {with("/rope_scaling", nullptr), "mrope_section"},
      {with("/use_sliding_window", true), "use_sliding_window"},
      {with("/head_dim", 64), "head_dim"},
      {with("/vision_config", Json::array()), "vision_config"},
      {with("/vision_config/num_heads", 17), "heads"},
      {with("/vision_config/in_chans", 1), "in_chans"},
      {with("/vision_config/window_size", 13), "window_size"},
      {with("/vision_config/out_hidden_size", 4096), "4096"},
      {with("/vision_config/fullatt_block_indexes", "7"), "fullatt_block_indexes"},
      {with("/video_token_id", 151655), "video_token_id"},
      {with("/image_token_id", 151936), "image_token_id"},
      {without("rms_norm_eps"), "rms_norm_eps"},
      {without("rope_theta"), "rope_theta"},
      {without("vision_config"), "vision_config"},
      {without("image_token_id"), "image_token_id"},
      {without("vocab_size"), "vocab_size"},
  };
  for (const auto& [config, word] : cases) {
    const std::string message = Refusal(config);
    EXPECT_NE(message.find(word), std::string::npos) << message;
    EXPECT_NE(message.find("c"), std::string::npos);
  }
}

}  // namespace
}  // namespace purekv

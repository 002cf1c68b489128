// A tiny model of six layers with any grouping of heads, weights made from the hash in f32, and a video for it.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/random_model.h"
#include "models/language_model.h"
#include "support/broken_model.h"
#include "support/reference_model.h"

namespace purekv {

struct Heads {
  int64_t heads, kv_heads;
};

// The tiny reference model with other heads and layers, weights in f32.
class SmallModel {
 public:
  static constexpr uint64_t kSeed = 5;
  static constexpr int64_t kLayers = 6;

  // edit: may change the weights before they are loaded. configure: config.json, before the weights are made.
  explicit SmallModel(Heads heads, const std::function<void(const std::string& file)>& edit = {},
                      const std::function<void(Json& config)>& configure = {})
      : files_("qwen2_5_vl_flat"), directory_("drop") {
    for (const auto& entry : std::filesystem::directory_iterator(files_.directory())) {
      const std::string name = entry.path().filename().string();
      if (!name.ends_with(".safetensors")) std::filesystem::copy_file(entry.path(), directory_.File(name));
    }
    EditJson(directory_.File("config.json"), [&](Json& config) {
      config["num_hidden_layers"] = kLayers;
      config["num_attention_heads"] = heads.heads;
      config["num_key_value_heads"] = heads.kv_heads;
      const int64_t half = 256 / heads.heads / 2;
      config["rope_scaling"]["mrope_section"] = {half / 4, half * 3 / 8, half * 3 / 8};
      if (configure) configure(config);
    });
    WriteRandomWeights(directory_.path(), {.seed = kSeed, .dtype = Dtype::kF32});
    if (edit) edit(directory_.File("model.safetensors"));
    model_ = Model::Load(directory_.path(), {.activations = Dtype::kF32});
  }
  const std::shared_ptr<const Model>& model() const { return model_; }
  const std::string& directory() const { return directory_.path(); }
  const LanguageModel& internals() const { return model_->internals(); }
  Turn VideoTurn() const { return files_.TurnNamed("video"); }
  PreparedMedia Video() const {
    const Turn turn = VideoTurn();
    return internals().LoadMedia(turn.media.front(), turn.media_options, {});
  }
  // A prompt of `before` and `after` text tokens around the video; after = 0: it ends with the video's marker.
  std::vector<int32_t> Ids(int32_t before, int32_t after) const {
    std::vector<int32_t> ids;
    ids.reserve(static_cast<size_t>(before + after) + 8);
    for (int32_t i = 0; i < before; ++i) ids.push_back(3 + 7 * i % 200);
    const std::vector<int32_t> media = internals().MediaIds(true);
    ids.insert(ids.end(), media.begin(), media.end());
    for (int32_t i = 0; i < after; ++i) ids.push_back(11 + 13 * i % 300);
    return ids;
  }

 private:
  ReferenceModel files_;
  TemporaryDirectory directory_;
  std::shared_ptr<const Model> model_;
};

}  // namespace purekv

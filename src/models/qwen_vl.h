// What Qwen2-VL and Qwen2.5-VL share: preprocessing, prompt layout, M-RoPE positions, loading. A family's own file only
// says which version it is.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "media/sampling.h"
#include "models/qwen_config.h"
#include "models/qwen_vision_tower.h"
#include "models/vision_language_model.h"

namespace purekv {

class QwenVl : public VisionLanguageModel {
 public:
  // `dir` empty: random weights, no tokenizer. Throws Error.
  QwenVl(QwenConfig config, const std::string& dir, const TensorSource& source, Dtype compute);

  const Decoder& decoder() const override { return decoder_; }
  const Tokenizer* tokenizer() const override { return texts_.tokenizer.get(); }
  const ChatTemplate& chat_template() const override { return texts_.chat_template; }
  const std::vector<int32_t>& stop_ids() const override { return texts_.stop_ids; }
  int32_t end_of_turn_id() const override { return texts_.end_of_turn_id; }
  PreparedMedia LoadMedia(const MediaSource& source, const MediaOptions& options,
                          const std::function<void(int64_t, int64_t)>& progress) const override;
  PreparedMedia PlanVideo(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const override;
  int64_t merge_size() const override { return config_.vision.merge_size; }
  PreparedMedia RandomMedia(const Grid& grid) const override;
  Matrix<float> Pixels(const PreparedMedia& media) const override;
  bool Encode(const PreparedMedia& media, MatrixView<float> out, const VisionProgress& progress) const override;
  PromptTokens LayOut(const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                      int32_t next_position) const override;
  int32_t PlaceholderId(bool video) const override { return video ? config_.video_id : config_.image_id; }
  std::vector<int32_t> MediaIds(bool video) const override;
  int64_t parameters() const override { return parameters_; }
  int64_t packed_bytes() const override { return decoder_.packed_bytes() + tower_.packed_bytes(); }
  std::vector<KernelChoice> Kernels() const override;

 private:
  // What turns text into ids and back; the tokenizer is null where the directory has none.
  struct Texts {
    std::unique_ptr<Tokenizer> tokenizer;
    ChatTemplate chat_template;
    std::vector<int32_t> stop_ids;
    int32_t end_of_turn_id = -1;
  };
  // Checks that tokenizer and config agree; completes the config's marker ids.
  static Texts ReadTexts(const std::string& dir, QwenConfig* config);
  // Resized dimensions of one medium. Throws Error naming `path` when the size is impossible or makes too many tokens.
  Size ResizedSize(const std::string& path, int64_t frames, int64_t height, int64_t width,
                   const PixelLimits& limits) const;

  // The small files come before the weights: what is wrong with them shows at once.
  QwenConfig config_;
  QwenPreprocessing preprocessing_;
  int64_t parameters_;
  Texts texts_;
  QwenVisionTower tower_;
  Decoder decoder_;
};

// Every tensor such a model needs. `config.tied` must be decided.
std::vector<TensorSpec> QwenTensors(const QwenConfig& config);

// Size and token count of a video of `frames` sampled frames. Throws Error (kUsage) when the pixel options contradict
// one another.
PreparedMedia PlanQwenVideo(const QwenConfig& config, const QwenPreprocessing& preprocessing, int64_t frames,
                            int64_t height, int64_t width, const MediaOptions& options);

}  // namespace purekv

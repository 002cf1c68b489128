// What a predictor of pages is trained on: for a prompt and its answer, read once with full attention, what each of the
// last rows gave every page, query head by query head. Beside dump_rows.cc lies the README.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/threads.h"
#include "engine/context_text.h"
#include "engine/conversation.h"
#include "engine/dialogue.h"
#include "engine/layer_observer.h"
#include "engine/prefill_attention.h"
#include "engine/prefill_pass.h"
#include "engine/prompt_media.h"
#include "engine/sequence.h"
#include "media/npy.h"
#include "policy/retrieval_pages.h"

namespace purekv {
namespace {

struct Asked {
  std::string model, video, context_file, prompt, out;
  int64_t answer_tokens = 64, rows = 128, page = 16, first_layer = 2, max_frames = 0;
  int threads = 0;
};

// [layers][heads][rows][pages], of the layers that look up.
struct Dumped {
  std::vector<int64_t> layers;
  int64_t heads = 0, rows = 0, pages = 0;
  std::vector<float> maxima, mass;  // the largest probability of a page's entries, and their sum
};

class RowsObserver : public LayerObserver {
 public:
  RowsObserver(const DecoderConfig& config, Sequence& sequence, const Asked& asked)
      : config_(config), sequence_(sequence), page_(asked.page) {
    const int64_t tokens = sequence.size();
    dumped_.heads = config.heads;
    dumped_.rows = std::min(asked.rows, tokens);
    dumped_.pages = (tokens + page_ - 1) / page_;
    for (int64_t layer = asked.first_layer; layer < config.layers; ++layer) {
      if (sequence.cache().spec().full(layer)) dumped_.layers.push_back(layer);
    }
    if (dumped_.layers.empty()) Fail("no layer looks up: the model has ", config.layers);
    const auto size = dumped_.layers.size() * static_cast<size_t>(dumped_.heads * dumped_.rows * dumped_.pages);
    dumped_.maxima.resize(size);
    dumped_.mass.resize(size);
  }

  LayerWants Wants(int64_t layer) const override {
    return {.input = false, .queries = false, .attended = IndexOf(layer) >= 0};
  }

  void Attended(const AttendedRows& rows) override {
    const int64_t first = sequence_.size() - dumped_.rows;
    const int64_t group = config_.heads / config_.kv_heads, dim = config_.head_dim;
    ParallelFor(config_.kv_heads, [&](int64_t g) {
      const KvHeadView& kv = rows.kv[static_cast<size_t>(g)];
      if (rows.tokens.back() < first) return;
      // Channel by channel, so that the sums run along the entries.
      std::vector<float> keys(static_cast<size_t>(kv.length * dim)), turned(keys.size());
      ReadKeys(kv, 0, kv.length, dim, keys.data());
      for (int64_t i = 0; i < kv.length; ++i) {
        for (int64_t d = 0; d < dim; ++d)
          turned[static_cast<size_t>(d * kv.length + i)] = keys[static_cast<size_t>(i * dim + d)];
      }
      std::vector<float> logits;
      for (int64_t r = 0; r < rows.q.rows; ++r) {
        const int64_t token = rows.tokens[static_cast<size_t>(r)];
        if (token < first) continue;
        for (int64_t h = g * group; h < (g + 1) * group; ++h) {
          logits.assign(static_cast<size_t>(token + 1), 0.0F);
          const float* const q = rows.q.Row(r) + h * dim;
          for (int64_t d = 0; d < dim; ++d) {
            const float* const of_channel = turned.data() + d * kv.length;
            for (int64_t i = 0; i <= token; ++i) logits[static_cast<size_t>(i)] += q[d] * of_channel[i];
          }
          AddRow(rows, {rows.layer, h, r, token - first}, logits);
        }
      }
    });
  }

  // No later layer looks at it.
  void LayerDone(int64_t layer) override {
    for (int64_t g = 0; g < config_.kv_heads; ++g) sequence_.cache().Keep(layer, g, {});
  }

  const Dumped& dumped() const { return dumped_; }

 private:
  struct Place {
    int64_t layer, head, row, at;  // row of the block, and of those that are dumped
  };
  int64_t IndexOf(int64_t layer) const {
    const auto found = std::find(dumped_.layers.begin(), dumped_.layers.end(), layer);
    return found == dumped_.layers.end() ? -1 : found - dumped_.layers.begin();
  }
  void AddRow(const AttendedRows& rows, const Place& of, std::span<const float> logits) {
    const int64_t index = ((IndexOf(of.layer) * dumped_.heads + of.head) * dumped_.rows + of.at) * dumped_.pages;
    const float lse = rows.lse.Row(of.row)[of.head];
    for (size_t i = 0; i < logits.size(); ++i) {
      const float p = std::exp(logits[i] * rows.scale - lse);
      const size_t page = static_cast<size_t>(index) + i / static_cast<size_t>(page_);
      dumped_.maxima[page] = std::max(dumped_.maxima[page], p);
      dumped_.mass[page] += p;
    }
  }

  const DecoderConfig& config_;
  Sequence& sequence_;
  int64_t page_;
  Dumped dumped_;
};

// The turn, its answer by the full cache, and both of them read once more.
void DumpRows(const Asked& asked) {
  const std::shared_ptr<const Model> model = Model::Load(asked.model, {});
  const LanguageModel& internals = model->internals();
  SessionOptions options;
  options.threads = asked.threads;
  Turn turn;
  turn.prompt = asked.prompt;
  if (!asked.video.empty()) turn.media.push_back({.kind = MediaSource::Kind::kVideo, .path = asked.video});
  if (asked.max_frames > 0) turn.media_options.max_frames = asked.max_frames;
  if (!asked.context_file.empty()) turn.context = ReadFile(asked.context_file, int64_t{64} << 20);
  if (turn.context) CheckContext(*turn.context);
  std::vector<PreparedMedia> media;
  for (const MediaSource& source : turn.media) {
    PreparedMedia one = internals.LoadMedia(source, turn.media_options, {});
    auto embedded = RoomForEmbedded(internals, one.tokens);
    internals.Encode(one, FeaturesOf(*embedded), [](int64_t, int64_t) { return true; });
    one.embedded = std::move(embedded);
    one.source.reset();
    media.push_back(std::move(one));
  }
  const Dialogue dialogue(*model);
  const Dialogue::FirstTexts texts = Dialogue::TextsOf(turn);
  const std::vector<int32_t> ids = dialogue.FirstTurn(texts);
  const int64_t context_ids = dialogue.CountContextIds(texts, ids);
  Conversation full(model, options);
  full.ReadPrompt(ids, media, nullptr, context_ids);
  const Answer answer = full.Generate({.max_new_tokens = asked.answer_tokens}, nullptr);

  PromptTokens all = LayOutTurn(internals, ids, media, 0, context_ids);
  const auto prompt_tokens = static_cast<int64_t>(all.ids.size());
  for (size_t i = 0; i + 1 < answer.ids.size(); ++i) all.AddText(answer.ids[i]);
  StageTimes times;
  EmbeddedPrompt embedded = EmbedPrompt(internals, all, media, {}, &times);
  const Decoder& decoder = internals.decoder();
  const DecoderConfig& config = decoder.config();
  Sequence sequence(Compression({}, decoder.cache_spec(), config.heads, config.full_rope()));
  sequence.Append(all.ids, all.layout, all.positions);
  RowsObserver rows(config, sequence, asked);
  LayerObserver* const observers[] = {&rows};
  const auto attention = MakePrefillAttention({}, {}, sequence.compression(), config.layers);
  DecoderWorkspace workspace;
  PrefillPass pass({.decoder = decoder,
                    .sequence = sequence,
                    .attention = *attention,
                    .observers = observers,
                    .workspace = workspace,
                    .deep = std::move(embedded.deep)},
                   embedded.hidden.View(), 512);
  while (pass.Step()) {
  }

  const Dumped& dumped = rows.dumped();
  std::filesystem::create_directories(asked.out);
  const std::vector<int64_t> shape = {static_cast<int64_t>(dumped.layers.size()), dumped.heads, dumped.rows,
                                      dumped.pages};
  WriteNpy(JoinPath(asked.out, "maxima.npy"), dumped.maxima, shape);
  WriteNpy(JoinPath(asked.out, "mass.npy"), dumped.mass, shape);
  std::string layers;
  for (const int64_t layer : dumped.layers) layers += StrCat(layers.empty() ? "" : ", ", layer);
  WriteFile(JoinPath(asked.out, "rows.json"),
            StrCat("{\"fingerprint\": \"", model->info().fingerprint, "\", \"page\": ", asked.page,
                   ", \"kv_heads\": ", config.kv_heads, ", \"prompt_tokens\": ", prompt_tokens,
                   ", \"tokens\": ", all.ids.size(), ", \"layers\": [", layers, "]}\n"));
  std::printf("%s: %lld tokens, %zu of them the answer's; %lld rows of %lld pages, %zu layers, %lld heads\n",
              asked.out.c_str(), static_cast<long long>(all.ids.size()),
              all.ids.size() - static_cast<size_t>(prompt_tokens), static_cast<long long>(dumped.rows),
              static_cast<long long>(dumped.pages), dumped.layers.size(), static_cast<long long>(dumped.heads));
}

}  // namespace
}  // namespace purekv

int main(int argc, char** argv) {
  CLI::App app{"Writes what the last rows of a prompt and its answer, read with full attention, give every page"};
  purekv::Asked asked;
  app.add_option("-m,--model", asked.model, "model directory or file")->required();
  app.add_option("--video", asked.video);
  app.add_option("--max-frames", asked.max_frames)->check(CLI::PositiveNumber);
  app.add_option("--context-file", asked.context_file, "a text that the prompt is about");
  app.add_option("-p,--prompt", asked.prompt)->required();
  app.add_option("-n,--max-new-tokens", asked.answer_tokens, "of the answer")->check(CLI::Range(1, 100000));
  app.add_option("--rows", asked.rows, "how many of the last rows")->check(CLI::Range(1, 100000));
  app.add_option("--page", asked.page, "entries of a page")->check(CLI::Range(4, 256));
  app.add_option("--first-layer", asked.first_layer, "attend_dense_layers")->check(CLI::Range(0, 10000));
  app.add_option("--threads", asked.threads)->check(CLI::Range(0, 4096));
  app.add_option("-o,--out", asked.out, "directory for maxima.npy, mass.npy and rows.json")->required();
  CLI11_PARSE(app, argc, argv);
  try {
    purekv::DumpRows(asked);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "purekv-dump-rows: error: %s\n", error.what());
    return 1;
  }
  return 0;
}

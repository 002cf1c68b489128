// The public face of the engine: load a model once, hold conversations over it.
//
//   auto model = purekv::Model::Load("Qwen2.5-VL-3B-Instruct", {});
//   purekv::Session session(model, {});
//   session.Read({.media = {{purekv::MediaSource::Kind::kVideo, "cat.mp4"}}, .prompt = "What happens?"});
//   purekv::Answer answer = session.Generate({.max_new_tokens = 64}, nullptr);
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "purekv/dtype.h"
#include "purekv/error.h"
#include "purekv/media.h"

namespace purekv {

class LanguageModel;  // internal

// Called now and then with a stage ("load", "vision", "prefill", ...) and how far it is; from the calling thread.
using ProgressFunction = std::function<void(const char* stage, int64_t done, int64_t total)>;

struct LoadOptions {
  std::optional<Dtype> dtype{};  // of weights, activations and cache: f32 or bf16. Unset: bf16 where the machine
                                 // multiplies it fast, else f32
  int threads = 0;               // used while loading; 0: physical cores
  ProgressFunction progress{};   // "load", in parameters
  // When it becomes true, Load and Random throw Cancelled within a second.
  const std::atomic<bool>* cancel = nullptr;
};

struct ModelInfo {
  std::string directory;  // or the shape's name for random weights
  std::string family;     // "qwen2_5_vl", "qwen2_vl"
  Dtype dtype = Dtype::kF32;
  int64_t parameters = 0;
  int64_t weight_bytes = 0;  // packed, in memory
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, vocabulary = 0, max_positions = 0;
  int64_t kv_bytes_per_token = 0;  // all layers and heads
  // 32 hexadecimal digits over configuration and weights: the same for the same model wherever it lies (docs/pkv.md).
  // Not known to Inspect.
  std::string fingerprint;
  // What looks wrong about the directory and does not stand in the way, one line each; empty where all is well.
  std::vector<std::string> warnings;
};

struct MediaInfo {
  MediaSource::Kind kind = MediaSource::Kind::kVideo;
  int64_t frames = 0;
  std::array<int64_t, 3> grid{};  // t, h, w in patches
  int64_t tokens = 0;
  double sample_fps = 0;
  // Of a video file (else 0): the frames that it promises, how many of these are not in it (cut off, or lost where its
  // structure is damaged), and how many of the frames that were decoded the decoder refused or marked as damaged.
  int64_t frames_expected = 0, frames_missing = 0, frames_damaged = 0;
  bool cut_off = false;  // the file ends before its own structure does
};

struct GenerateOptions {
  int64_t max_new_tokens = 256;
  float temperature = 0;  // 0: greedy
  int64_t top_k = 0;      // 0: off
  float top_p = 1;
  float repetition_penalty = 1;
  uint64_t seed = 0;
};

// What a model directory holds, read without loading any weight.
struct ModelSummary {
  // weight_bytes: bytes of the tensors as they lie on disk; dtype: what LoadOptions without one would choose here.
  ModelInfo info;
  std::string disk_dtype;  // of most tensor bytes: "bf16", "f16", "f32"
  bool tied_embeddings = false;
  int64_t intermediate = 0;  // of the decoder's feed-forward layers
  double rope_theta = 0;
  std::vector<int64_t> mrope_sections;  // empty: one position axis
  struct Vision {
    int64_t parameters = 0;
    int64_t layers = 0, hidden = 0, heads = 0, intermediate = 0;
    int64_t patch = 0, temporal_patch = 0, merge = 0;
    int64_t window = 0;  // in pixels; 0: attention over the whole frame
  } vision;
};

// One tensor of a model directory, as stored.
struct TensorListing {
  std::string name;
  std::string dtype;  // as the file says: "BF16", "F32", ...
  std::vector<int64_t> shape;
  int64_t bytes = 0;
  std::string file;  // name inside the directory
};

// What a video costs a model.
struct VideoCost {
  MediaInfo media;                // frames, grid and visual tokens
  int64_t height = 0, width = 0;  // after resizing, in pixels
  int64_t prompt_tokens = 0;      // of the whole first turn: template, visual tokens, the question
  // What a budget keeps of it, and the cache that holds this, in whole pages as it is allocated.
  struct Kept {
    double budget = 1;
    int64_t tokens = 0;  // per layer and KV head
    int64_t kv_bytes = 0;
  };
  std::vector<Kept> kept;  // budgets 1, 0.5, 0.2, 0.1, 0.05
};

// Read-only after loading; any number of sessions in any threads may share one.
class Model {
 public:
  // A Hugging Face model directory as published. Throws Error naming file and field or tensor.
  static std::shared_ptr<const Model> Load(const std::string& directory, const LoadOptions& options);
  // Random weights of a published architecture ("qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen2-vl-2b", ...), nothing to
  // download; `layers` decoder layers (0: all). It has no tokenizer: for measuring speed only.
  static std::shared_ptr<const Model> Random(const std::string& shape, int layers, const LoadOptions& options);

  // A directory's configuration and tensor headers, nothing packed: seconds even for the largest models. Throws Error
  // as Load does.
  static ModelSummary Inspect(const std::string& directory);
  // Every tensor of the directory, sorted by name.
  static std::vector<TensorListing> ListTensors(const std::string& directory);
  // Tokens of a video of `frames` sampled frames of height x width pixels (`options`: pixel limits only) with the
  // question `prompt`, and the cache that they need (dtype: of the cache, else what Load would choose). A directory
  // without a tokenizer counts the visual tokens and their two markers alone. Throws Error (kUsage) on sizes that the
  // model cannot take.
  static VideoCost CostOfVideo(const std::string& directory, int64_t frames, int64_t height, int64_t width,
                               const MediaOptions& options, const std::string& prompt = "",
                               std::optional<Dtype> dtype = std::nullopt);

  const ModelInfo& info() const { return info_; }
  // Sampling values of the directory's generation_config.json (temperature, top_k, top_p, repetition_penalty;
  // temperature 0 when it says do_sample: false); what it does not say keeps GenerateOptions' default. `present` false:
  // there is no such file.
  GenerateOptions generation_defaults(bool* present = nullptr) const;
  const LanguageModel& internals() const { return *internals_; }
  ~Model();

 private:
  Model(ModelInfo info, std::unique_ptr<const LanguageModel> internals);
  ModelInfo info_;
  std::unique_ptr<const LanguageModel> internals_;
};

// From `layer` on (the second layer or later) only the share `alive` of the visual tokens, (0, 1], goes on through the
// model; text always does (docs/purekv.md).
struct DropLayer {
  int64_t layer = 0;
  double alive = 1;
  bool operator==(const DropLayer&) const = default;
};

// Which part of the cache is kept (docs/policies.md).
struct KvOptions {
  std::string policy = "full";
  std::optional<double> budget;   // share of tokens kept, (0, 1]
  std::optional<int64_t> tokens;  // or tokens kept per layer and KV head
  std::optional<int64_t> bytes;   // or the most bytes allocated for keys and values in all, before what comes on top
  std::string allocator = "uniform";
  enum class When { kPrompt, kMedia } when = When::kPrompt;
  // Cut the cache to the budget (tokens or bytes) after every so many prompt tokens, so that a prompt of any length
  // needs no more than the budget and one such chunk (`bytes`: no more than the budget, chunk included); 0: once, when
  // the part has been read.
  int64_t chunk = 0;
  std::map<std::string, std::string> options;
  // Where the prefill drops visual tokens: layers ascending, shares descending. Needs a policy that scores entries.
  std::vector<DropLayer> drop_layers;
  bool operator==(const KvOptions&) const = default;
};

// Which keys a prompt's queries attend to (docs/purekv.md). "dense": all before them. "st": spatial-temporal sparse
// attention, a fixed pattern over videos. "block-sparse": blocks of keys chosen by their content (XAttention, arXiv
// 2503.16428). Generated and scored answers are always dense.
struct PrefillOptions {
  std::string kind = "dense";
  std::map<std::string, std::string> options;
  bool operator==(const PrefillOptions&) const = default;
};

struct SessionOptions {
  int threads = 0;  // 0: physical cores
  KvOptions kv;
  PrefillOptions prefill;
  // Rows a layer works on at a time; 0: chosen by the engine. Changes results by rounding only, but for block-sparse
  // prefill, whose blocks of queries begin at the first row of each.
  int64_t block_rows = 0;
  int64_t chunk_tokens = 0;    // prompt tokens per pass through all layers; 0: the whole prompt in one pass
  std::string dump_directory;  // every stage's tensor as .npy, of the first prompt
  ProgressFunction progress;
  // When it becomes true, Read and Score throw Cancelled, Generate stops with what it has.
  const std::atomic<bool>* cancel = nullptr;
};

// One user turn. System message and media belong to the first turn only.
struct Turn {
  std::optional<std::string> system{};
  std::vector<MediaSource> media{};
  MediaOptions media_options{};
  std::string prompt{};
};

struct PromptInfo {
  std::vector<int32_t> ids;  // of this turn
  int64_t visual_tokens = 0;
  std::vector<MediaInfo> media;
  // What a user should know about the answer: one line per medium that is not all there, which names its file.
  std::vector<std::string> warnings;
};

struct Answer {
  std::string text;
  std::vector<int32_t> ids;  // the end token included when it came
  std::vector<float> logprobs;
  enum class Finish { kStop, kLength, kCancelled } finish = Finish::kLength;
};

struct ScoreResult {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;  // natural log of the probability of each answer token
  std::vector<int32_t> top1;    // the most likely token at each place
  std::vector<float> logits;    // [ids, vocabulary], when asked for
};

struct KvStats {
  int64_t tokens_full = 0;  // prompt tokens at the end of the prefill
  // Of them, the part that compression looked at: all, or with When::kMedia those up to the media's end.
  int64_t tokens_compressed = 0;
  double tokens_kept_mean = 0;             // over layers and heads
  int64_t bytes_full = 0, bytes_kept = 0;  // at the end of the first prefill; real allocations
  int64_t bytes_peak = 0;                  // the most at any moment of it
  // Since: held now by the cache, in memory or viewed in a file, and the most at any moment so far; the copy of a
  // snapshot included.
  int64_t bytes_now = 0, bytes_most = 0;
  // Per drop layer: tokens of the compressed part (text included) that it and the layers above ran.
  std::vector<int64_t> tokens_alive;
};

// What a sparse prefill left out, counted over pairs of query and key as if nothing had been evicted.
struct PrefillStats {
  int64_t start = 0;       // the first sparse layer; the number of layers where all are dense
  double flops_share = 1;  // attention FLOPs of the prompts read so far over dense attention's, all layers
  struct Part {
    std::string name;
    double flops_share = 0;  // of dense attention's in the sparse layers
  };
  std::vector<Part> parts;  // empty: dense
};

struct StageTimes {
  double media_s = 0, vision_s = 0, prefill_s = 0, decode_s = 0;  // sums over the session
  int64_t decoded_tokens = 0;
};

// What a saved cache holds (Session::Save, docs/pkv.md).
struct SavedCache {
  std::string model;  // fingerprint of the model that made it
  Dtype dtype = Dtype::kF32;
  KvOptions kv;
  PrefillOptions prefill;
  KvStats stats;  // of the session that saved it; bytes_now 0
  int64_t bytes = 0;
  std::vector<MediaInfo> media;
};
// Reads the description of a .pkv file. Throws Error naming the file; damage to the entries is found by Session::Open.
SavedCache InspectCache(const std::string& path);

// One conversation. All mutable state lives here; use from one thread at a time.
class Session {
 public:
  Session(std::shared_ptr<const Model> model, SessionOptions options);
  // Continues from a file of Save, as the session that saved it would: the next Read brings the question. The file is
  // mapped and read in place until a head grows; options.kv and options.prefill must be left alone, they are the
  // file's. Throws Error naming the file: not a .pkv file, another version, damaged in any bit, of another model or
  // dtype.
  static Session Open(std::shared_ptr<const Model> model, const std::string& path, SessionOptions options);
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  // Reads a user turn into the cache: the first one with its media, later ones behind the answers so far (a missing
  // end-of-turn token is appended first). Throws Error. What is wrong with a turn or its media, or a
  // cancel until the media have been seen, leaves the session as it was; thrown later, it is unusable until Reset.
  PromptInfo Read(const Turn& turn);
  // Reads a first turn without its question, up to the end of its last medium, and compresses it there: needs
  // KvOptions::When::kMedia. The next Read brings the question (a prompt and nothing else); both together are what one
  // Read of the whole turn is, bit for bit. Returns what was read so far; the next Read returns all of the turn.
  PromptInfo ReadMedia(const Turn& turn);
  // Writes the session, as it is right after ReadMedia, to a .pkv file, atomically; returns its bytes. Throws Error.
  int64_t Save(const std::string& path) const;
  // Remembers the state of now, after ReadMedia, Open or any Read; Rollback comes back to it, as often as wanted, also
  // after a Read that threw. By forgetting what was appended since; where the policy evicts while decoding, from a
  // copy.
  void TakeSnapshot();
  void Rollback();
  // As Read, from ready-made ids of text without media.
  void ReadIds(const std::vector<int32_t>& ids);
  // Continues after Read. on_text (may be empty) gets complete characters as they come.
  Answer Generate(const GenerateOptions& options, const std::function<void(const std::string&)>& on_text);
  // Teacher forcing: probabilities of these ids after Read; the answer becomes part of the conversation.
  ScoreResult Score(const std::vector<int32_t>& answer_ids, bool keep_logits);
  std::vector<int32_t> Encode(const std::string& text) const;

  const KvOptions& kv_options() const;
  const PrefillOptions& prefill_options() const;
  KvStats kv() const;
  const StageTimes& times() const;
  PrefillStats prefill() const;
  // kept prompt positions [layer][KV head][...] right after compression.
  const std::vector<std::vector<std::vector<int32_t>>>& kept() const;
  int64_t tokens() const;  // sequence length so far
  void Reset();

 private:
  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Kernel chosen for each primitive, and why those before it in the list were refused: "matmul" -> "amx_bf16 (own)", or
// "onednn brg:avx512_core_bf16; refused amx_bf16: PUREKV_CPU=avx512_bf16".
std::map<std::string, std::string> KernelChoices(const Model& model);

// The same for people: one line per primitive.
std::vector<std::string> KernelReport(const Model& model);

}  // namespace purekv

// The public face of the engine: load a model once, hold conversations over it.
//
//   auto model = purekv::Model::Load("Qwen2.5-VL-3B-Instruct", {});
//   purekv::Session session(model, {});
//   session.Read({.media = {{purekv::MediaSource::Kind::kVideo, "cat.mp4"}}, .prompt = "What happens?"});
//   purekv::Answer answer = session.Generate({.max_new_tokens = 64}, nullptr);
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "purekv/error.h"
#include "purekv/media.h"
#include "purekv/model.h"
#include "purekv/options.h"
#include "purekv/stats.h"
#include "purekv/token_layout.h"

namespace purekv {

// How a session works.
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

// One user turn. System message, media and context belong to the first turn only.
struct Turn {
  std::optional<std::string> system{};
  std::vector<MediaSource> media{};
  // Texts among the media, in the same message: [i], UTF-8, maybe empty, stands in front of media[i]. As many as media;
  // or none: then all media stand in front of the text. A list of content parts is a turn in this way: what is behind
  // the last medium is `prompt`.
  std::vector<std::string> media_texts{};
  MediaOptions media_options{};
  // A text that the question is about, UTF-8, not empty: it stands behind the media and before the prompt, in the same
  // message, with a blank line ("\n\n") between.
  std::optional<std::string> context{};
  std::string prompt{};
};

// A part of a message: a text, or a medium.
struct ChatPart {
  std::string text{};
  std::optional<MediaSource> medium{};
  MediaOptions media_options{};
  // Of a user's text: what has been said up to its end is compressed there under KvOptions::When::kContext, as behind
  // Turn::context, if no medium follows in the chat; where several texts say so, behind the last. A blank line is put
  // between it and the text that follows in the turn.
  bool ends_context = false;
};

// What one side has said in a chat; media are the user's alone.
struct ChatTurn {
  enum class Role { kSystem, kUser, kAssistant } role = Role::kUser;
  std::vector<ChatPart> parts{};  // in the order in which the model sees them
};

// What reading a turn made of it.
struct PromptInfo {
  std::vector<int32_t> ids;  // of this turn
  int64_t visual_tokens = 0;
  std::vector<MediaInfo> media;
  // What a user should know about the answer: one line per medium that is not all there, which names its file.
  std::vector<std::string> warnings;
};

// What Session::Generate made.
struct Answer {
  std::string text;          // without the stop text that ended it
  std::vector<int32_t> ids;  // the end token included when it came, and those that hold a stop text
  std::vector<float> logprobs;
  struct Candidate {
    int32_t id = 0;
    float logprob = 0;
  };
  // For each of `ids`, GenerateOptions::top_logprobs of the most likely tokens, best first, before any penalty.
  std::vector<std::vector<Candidate>> top{};
  enum class Finish { kStop, kLength, kCancelled } finish = Finish::kLength;
};

// What Session::Score found.
struct ScoreResult {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;  // natural log of the probability of each answer token
  std::vector<int32_t> top1;    // the most likely token at each place
  std::vector<float> logits;    // [ids, vocabulary], when asked for
};

// One conversation. All mutable state lives here; use from one thread at a time.
class Session {
 public:
  // Throws Error (kUsage) naming the field when an option is out of range, cannot take effect or does not fit the
  // model.
  Session(std::shared_ptr<const Model> model, SessionOptions options);
  // Continues from a file of Save, as the session that saved it would: the next Read brings the question. The file is
  // mapped and read in place until a head grows; options.kv and options.prefill must be left alone, they are the
  // file's. Throws Error naming the file: not a .pkv file, another version, damaged in any bit, of another model or
  // dtype.
  static Session Open(std::shared_ptr<const Model> model, const std::string& path, SessionOptions options);
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  // Reads a user turn into the cache: the first one with its media and context, later ones behind the answers so far (a
  // missing end-of-turn token is appended first). Throws Error. What is wrong with a turn or its media, or a cancel
  // until the media have been seen, leaves the session as it was; thrown later, it is unusable until Reset.
  PromptInfo Read(const Turn& turn);
  // Reads a whole chat as the first prompt: system message, turns of both sides, media wherever they stand. Tokens are
  // those that the model's template makes of all of it; what assistants said is read as text, not as steps of an
  // answer. With KvOptions::When::kContext it is compressed at the end of its last medium. Throws Error: something has
  // been read already, the last turn is not a user's (kUsage), and as Read; a text or medium is named as the field
  // "chat.TURN.PART", both counted from 0.
  PromptInfo ReadChat(const std::vector<ChatTurn>& chat);
  // Reads a first turn without its question, up to the end of its last medium and its context text, and compresses it
  // there: up to the last token that lies in the context whatever the question begins with. Needs
  // KvOptions::When::kContext. The next Read brings the question (a prompt and nothing else); both together are what
  // one Read of the whole turn is, bit for bit. Returns what was read so far; the next Read returns all of the turn.
  PromptInfo ReadMedia(const Turn& turn);
  // Writes the session, as it is right after ReadMedia, to a .pkv file, atomically; returns its bytes. Throws Error.
  int64_t Save(const std::string& path) const;
  // Remembers the state of now, after ReadMedia, Open or any Read; Rollback comes back to it, as often as wanted, also
  // after a Read that threw. By forgetting what was appended since; where the policy evicts while decoding, from a
  // copy. Throw Error (kUsage) when nothing has been read, or nothing remembered.
  void TakeSnapshot();
  void Rollback();
  // As Read, from ready-made ids of text without media: any number above 0, each in the model's vocabulary.
  void ReadIds(const std::vector<int32_t>& ids);
  // Continues after Read. on_text (may be empty) gets complete characters as they come. Throws Error: a value of
  // `options` is out of range (kUsage, naming its field), nothing has been read, the model's logits are not finite.
  Answer Generate(const GenerateOptions& options, const std::function<void(const std::string&)>& on_text);
  // Teacher forcing: probabilities of these ids after Read; the answer becomes part of the conversation. keep_logits:
  // all of them too, 4 bytes for every id and word of the vocabulary. Throws Error: no ids, one outside the vocabulary.
  ScoreResult Score(const std::vector<int32_t>& answer_ids, bool keep_logits);
  // Whether a prompt can be read in some turn: throws Error as Read will (no valid UTF-8, a marker reserved for media),
  // so that many can be looked at before the first is read.
  void CheckPrompt(const std::string& prompt) const;
  // The ids of `text` as it stands, without a template. Throws Error: no valid UTF-8, a model without a tokenizer.
  std::vector<int32_t> Encode(const std::string& text) const;

  const KvOptions& kv_options() const;
  const PrefillOptions& prefill_options() const;
  KvStats kv() const;
  const StageTimes& times() const;  // in seconds
  PrefillStats prefill() const;
  // What each token that has been through the model is, the evicted and the dropped included: prompts, answers, later
  // turns. [token]; a token's place here is its sequence index. A visual token is one merged cell of a slice of a
  // medium, and all media of the session are counted through (TokenRecord::item). Valid until the session is used
  // again.
  const TokenLayout& layout() const;
  // Of the same tokens, their rotary positions; with several axes these are no sequence indices. [token]
  std::span<const Position> positions() const;
  // What each KV head kept of the prompt, right after compression: the sequence indices of its entries, ascending, so
  // that layout()[kept()[layer][head][i]] is what entry i was made of. [layer][KV head][entry]; every token where
  // nothing was evicted, nothing before the first compression.
  const std::vector<std::vector<std::vector<int32_t>>>& kept() const;
  // Length of the sequence so far: layout(), and the last token of an answer when it has not been through the model.
  int64_t tokens() const;
  // Forgets all but the options.
  void Reset();

 private:
  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace purekv

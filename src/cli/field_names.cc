#include "cli/field_names.h"

#include <algorithm>

namespace purekv::cli {

const std::vector<FieldName>& FieldNames() {
  static const std::vector<FieldName> names = {
      // KvOptions
      {"kv.policy", "--kv-policy"},
      {"kv.budget", "--kv-budget"},
      {"kv.tokens", "--kv-tokens"},
      {"kv.bytes", "--kv-bytes"},
      {"kv.allocator", "--kv-allocator"},
      {"kv.merge", "--kv-merge"},
      {"kv.keys", "--kv-keys"},
      {"kv.values", "--kv-values"},
      {"kv.key_channels", "--kv-key-channels"},
      {"kv.basis", "--kv-basis"},
      {"kv.budget_of", "--kv-budget-of"},
      {"kv.when", "--kv-when"},
      {"kv.chunk", "--kv-chunk"},
      {"kv.attend", "--kv-attend"},
      {"kv.store", "--kv-store"},
      {"kv.store.directory", "--kv-store-dir"},
      {"kv.store.resident", "--kv-resident"},
      {"kv.attend_budget", "--kv-attend-budget"},
      {"kv.attend_tokens", "--kv-attend-tokens"},
      {"kv.option.", "--kv-option"},
      {"kv.prefix_shares", "--profile"},
      {"kv.drop_layers", "--drop-layers"},
      // PrefillOptions
      {"prefill.kind", "--prefill"},
      {"prefill.option.", "--prefill-option"},
      // MediaSource and MediaOptions
      {"media.kind.video", "--video"},
      {"media.kind.image", "--image"},
      {"media.kind.frames", "--frames"},
      {"media.end", "--video-end"},
      {"media.fps", "--fps"},
      {"media.sampling", "--sampling"},
      {"media.max_frames", "--max-frames"},
      {"media.min_pixels", "--min-pixels"},
      {"media.max_pixels", "--max-pixels"},
      // Turn
      {"turn.system", "--system"},
      {"turn.context", "--context"},
      {"turn.prompt", "--prompt"},
      // GenerateOptions
      {"generate.max_new_tokens", "--max-new-tokens"},
      {"generate.temperature", "--temp"},
      {"generate.top_k", "--top-k"},
      {"generate.top_p", "--top-p"},
      {"generate.repetition_penalty", "--repetition-penalty"},
      {"generate.presence_penalty", "--presence-penalty"},
      {"generate.frequency_penalty", "--frequency-penalty"},
      {"generate.stop", "--stop"},
      // LoadOptions, Model::Random, SessionOptions
      {"load.activations", "--dtype"},
      {"load.weights", "--weights"},
      {"load.weights.option.", "--weights-option"},
      {"load.cache", "--dtype"},
      {"load.threads", "--threads"},
      {"shape", "--shape"},
      {"layers", "--layers"},
      {"threads", "--threads"},
      {"dump_directory", "--dump"},
      // BenchRequest, CalibrationRequest, data sets of an evaluation
      {"bench.prompt_tokens", "--prompt-tokens"},
      {"bench.depth", "--depth"},
      {"bench.depth_read", "--depth-read"},
      {"bench.decode_tokens", "--max-new-tokens"},
      {"bench.grid", "--frames-grid"},
      {"calibrate.max_loss", "--max-loss"},
      {"eval.data_format", "--data-format"},
  };
  return names;
}

std::string InFlags(const Message& message, const std::function<std::string(const std::string& flag)>& as_given) {
  return message.Naming([&](const std::string& path) {
    const auto found = std::find_if(FieldNames().begin(), FieldNames().end(), [&](const FieldName& one) {
      return one.field.ends_with('.') ? path.starts_with(one.field) : path == one.field;
    });
    if (found == FieldNames().end()) return path;
    const std::string flag = as_given ? as_given(found->flag) : found->flag;
    return found->field.ends_with('.') ? flag + " " + path.substr(found->field.size()) : flag;
  });
}

}  // namespace purekv::cli

// The tensors of a GGUF file under the names, and in the order, that Hugging Face gives them.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "checkpoint/gguf.h"
#include "checkpoint/tensor_source.h"

namespace purekv {

// What of a file's tensors is not as Hugging Face has it, beside their names.
struct GgufLayout {
  bool post_norms = false;         // norms behind each half of a layer, too (Gemma 3)
  bool norms_include_one = false;  // 1 has been added to the weights of norms (Gemma)
  // Rows of q and k lie as for a rotation of neighbouring pairs (arch llama): those of a head, in order 0, d/2, 1,
  // d/2 + 1, ... of the halves that Hugging Face rotates. 0: they do not.
  int64_t interleaved_head_dim = 0;
};

// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight". nullopt: no tensor of a decoder.
std::optional<std::string> PublishedGgufName(const std::string& name, bool post_norms);

// Tensors without a published name (rope_freqs.weight) are left out. Blocks come with a reader of their rows. Throws
// Error naming file and tensor; a type that cannot be read is an error when the tensor is looked for.
std::unique_ptr<const TensorSource> GgufTensors(std::shared_ptr<const GgufFile> file, const GgufLayout& layout);

}  // namespace purekv

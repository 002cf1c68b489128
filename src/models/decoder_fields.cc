#include "models/decoder_fields.h"

#include "base/error.h"

namespace purekv {

void ParseSizes(const JsonFields& fields, DecoderConfig* decoder) {
  decoder->hidden = fields.Int("hidden_size", 1, kMaxWidth);
  decoder->layers = fields.Int("num_hidden_layers", 1, kMaxDepth);
  decoder->heads = fields.Int("num_attention_heads", 1, kMaxDepth);
  decoder->kv_heads = fields.Int("num_key_value_heads", 1, kMaxDepth, decoder->heads);
  decoder->intermediate = fields.Int("intermediate_size", 1, kMaxWidth);
  decoder->vocabulary = fields.Int("vocab_size", 1, int64_t{1} << 24);
  decoder->max_positions = fields.Int("max_position_embeddings", 1, int64_t{1} << 30);
}

void CheckHeads(const JsonFields& fields, const DecoderConfig& decoder) {
  if (decoder.heads % decoder.kv_heads != 0) {
    Fail(fields.where(), ": num_attention_heads ", decoder.heads, " is not a multiple of num_key_value_heads ",
         decoder.kv_heads);
  }
  if (decoder.head_dim % 2 != 0) Fail(fields.where(), ": head dim ", decoder.head_dim, " is odd");
}

}  // namespace purekv

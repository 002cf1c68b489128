// The file that --kv-basis names: the bases of a model's keys and values (docs/policies.md, "In fewer dimensions").
#pragma once

#include <map>
#include <string>

#include "policy/codecs.h"
#include "purekv/model.h"
#include "purekv/options.h"

namespace purekv {

// A safetensors file: `k.L` [kv_heads, head_dim, rank] and `v.L` of every layer L, F32, the columns of each head
// orthonormal; in its metadata the `fingerprint` of the model. Throws Error naming the file, and the tensor: another
// model's, or none of this form.
KvBases ReadBases(const std::string& path, const Model& model);

// Of all its bytes: 16 hexadecimal digits. Throws Error.
std::string BasisHash(const std::string& path);

// Those of the file that the options name; empty where they name none.
KvBases BasesOf(const KvOptions& options, const Model& model);

// metadata: beside the fingerprint. Throws Error; nothing half-written stays.
void WriteBases(const std::string& path, const KvBases& bases, const std::map<std::string, std::string>& metadata);

}  // namespace purekv

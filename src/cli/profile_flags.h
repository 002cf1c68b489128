// --drop-layers and --profile: what they and the --kv- flags come to, once the model is known.
#pragma once

#include <string>

#include "cli/flag_table.h"
#include "purekv/model.h"
#include "purekv/profile.h"

namespace purekv::cli {

struct ProfileFlags {
  std::string file;                                                    // --profile
  enum class Drop { kUnset, kList, kAuto, kOff } drop = Drop::kUnset;  // --drop-layers
};
// What is read: a profile's drop layers were found on videos and images, and are not taken for texts unless asked for.
enum class Reads { kMedia, kTextAlone };
// The list of --drop-layers goes into `kv`.
void AddProfileFlags(FlagTable& table, ProfileFlags* flags, KvOptions* kv);

// Every check that needs no model, CheckKvFlags' included. Throws Error.
void CheckProfileFlags(const FlagTable& table, const ProfileFlags& flags, const KvOptions& kv, Reads reads);

// The options for a session: the profile's where flags leave them open (it must be this model's), and for `auto`
// without a profile the defaults of docs/purekv.md. Throws Error.
KvOptions ResolveKv(const ProfileFlags& flags, const KvOptions& kv, const Model& model, Reads reads);

// The sparse prefill's first layer is the profile's, where there is one and no --prefill-option says otherwise.
PrefillOptions ResolvePrefill(const ProfileFlags& flags, PrefillOptions prefill);

}  // namespace purekv::cli

// What the writer and the reader of profile.json agree on.
#pragma once

namespace purekv {

constexpr char kProfileFormat[] = "purekv-profile";
constexpr int kProfileVersion = 1;

// The policy that profiles of shares are of (LayerShares); the others are of CalibratedPolicy.
constexpr char kPrefixPolicy[] = "prefixkv";

}  // namespace purekv

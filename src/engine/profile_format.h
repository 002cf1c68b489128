// What the writer and the reader of profile.json agree on.
#pragma once

namespace purekv {

constexpr char kProfileFormat[] = "purekv-profile";
constexpr int kProfileVersion = 1;

}  // namespace purekv

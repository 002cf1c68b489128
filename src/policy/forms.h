// The forms of a cache that are no policies, for people: how evicted entries are merged, what keys and values are kept
// as, where they lie; and what each costs.
#pragma once

#include <string>
#include <vector>

#include "policy/options.h"
#include "purekv/options.h"

namespace purekv {

struct FormInfo {
  std::string name, summary;
  Cost cost;
  // Of a codec: bits of an element in groups of the default size, minimum and step included; 0: as many as the cache's.
  double bits = 0;
};

// MergeRules() without "auto" and the other name.
const std::vector<FormInfo>& MergeForms();
// What KvOptions::keys and values may say; "channels", KvOptions::key_channels; "basis", KvOptions::basis.
const std::vector<FormInfo>& CodecForms();
// Of StoreOptions.
const std::vector<FormInfo>& StoreForms();

// As CheckKvOptions (policy/registry.h) of options that say how keys and values are kept and nothing else: what belongs
// to anything else cannot take effect.
void CheckKvForms(const KvOptions& options);

}  // namespace purekv

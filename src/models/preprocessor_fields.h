// What every family's preprocessor_config.json says in the same words.
#pragma once

#include <cstdint>

#include "checkpoint/json.h"
#include "media/patches.h"

namespace purekv {

// Throws Error where the field is there and is not what config.json says.
void CheckEqual(const JsonFields& fields, const char* key, int64_t expected);

// "image_mean" and "image_std", where they are there. Throws Error.
void ReadMeanStd(const JsonFields& fields, PatchSpec& patches);

// The steps of the published processors are built in; a file that leaves one out or does it differently is refused.
// Throws Error naming the field.
void CheckSteps(const JsonFields& fields);

}  // namespace purekv

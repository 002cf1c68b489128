// Which error it was: what it is about, and what it says.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "purekv/error.h"

namespace purekv {

// Runs `body`, which must throw a usage error about the option `field` (empty: about none) that says `words`.
inline void ExpectUsageError(const std::string& field, const std::string& words, const std::function<void()>& body) {
  try {
    body();
    ADD_FAILURE() << "no error: " << field << " " << words;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::kUsage) << error.what();
    EXPECT_EQ(error.field(), field) << error.what();
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

}  // namespace purekv

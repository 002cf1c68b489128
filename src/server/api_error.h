// What a client is told when a request cannot be served, in OpenAI's form.
#pragma once

#include <exception>
#include <optional>
#include <string>

#include "base/error.h"
#include "server/http.h"

namespace purekv::server {

struct ApiError final : std::exception {
  int status = 500;
  std::string code;                    // "invalid_value"
  std::string message;                 // what, where, what would be right
  std::optional<std::string> param{};  // the key at fault: "messages[0].content[1]"
  int retry_after_s = 0;               // 0: none is said

  const char* what() const noexcept override { return message.c_str(); }
};

ApiError MakeApiError(int status, std::string code, std::string message, int retry_after_s = 0);

// 400, about a key of the request; the message begins with it.
template <class... Args>
[[noreturn]] void Refuse(const std::string& code, const std::string& param, const Args&... args) {
  ApiError error;
  error.status = 400;
  error.code = code;
  error.message = Say(param, args...).text;
  error.param = param;
  throw error;
}

// {"error":{"message","type","param","code"}}
std::string ErrorObject(const ApiError& error);
HttpResponse ErrorResponse(const ApiError& error);

}  // namespace purekv::server

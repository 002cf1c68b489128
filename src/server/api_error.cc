#include "server/api_error.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace purekv::server {
namespace {

using OrderedJson = nlohmann::ordered_json;

const char* TypeOf(const ApiError& error) {
  switch (error.status) {
    case 401:
      return "authentication_error";
    case 429:
      return "rate_limit_error";
    case 500:
      return "server_error";
    case 503:
      return "unavailable_error";
    case 504:
      return "timeout_error";
    default:
      return "invalid_request_error";
  }
}

}  // namespace

ApiError MakeApiError(int status, std::string code, std::string message, int retry_after_s) {
  ApiError error;
  error.status = status;
  error.code = std::move(code);
  error.message = std::move(message);
  error.retry_after_s = retry_after_s;
  return error;
}

std::string ErrorObject(const ApiError& error) {
  OrderedJson object = {{"message", error.message}, {"type", TypeOf(error)}, {"param", nullptr}, {"code", error.code}};
  if (error.param) object["param"] = *error.param;
  return OrderedJson{{"error", std::move(object)}}.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

HttpResponse ErrorResponse(const ApiError& error) {
  HttpResponse response;
  response.status = error.status;
  response.body = ErrorObject(error);
  if (error.retry_after_s > 0) response.fields.emplace_back("Retry-After", std::to_string(error.retry_after_s));
  // Clients ask again after these unless they are told that it will not help.
  if (error.status == 409 || error.status == 500 || error.status == 504) {
    response.fields.emplace_back("x-should-retry", "false");
  }
  if (error.status == 401) response.fields.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace purekv::server

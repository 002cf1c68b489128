// multipart/form-data as it comes: however the bytes are cut, the parts are the same.
#include "server/multipart.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace purekv::server {
namespace {

// "name(filename)=data;" of each part, when the body comes in pieces of `size` bytes; "?" behind what was understood
// of a body that is none.
std::string Parts(const std::string& body, size_t size) {
  std::string parts;
  MultipartReader reader(
      "b",
      [&](const FormPart& part) {
        if (!parts.empty()) parts += ";";
        parts += part.name + (part.filename ? "(" + *part.filename + ")" : "") + "=";
      },
      [&](std::string_view data) { parts += data; });
  try {
    for (size_t at = 0; at < body.size(); at += size) reader.Add(std::string_view(body).substr(at, size));
    reader.Finish();
  } catch (const Error&) {
    parts += "?";
  }
  return parts;
}

void ExpectParts(const std::string& expected, const std::string& body) {
  for (const size_t size : {body.size() + 1, size_t{1}, size_t{2}, size_t{3}, size_t{7}}) {
    EXPECT_EQ(Parts(body, size), expected) << "in pieces of " << size << ": " << body;
  }
}

std::string Part(const std::string& disposition, const std::string& data) {
  return "--b\r\nContent-Disposition: " + disposition + "\r\n\r\n" + data + "\r\n";
}

TEST(Multipart, PartsAreTheSameHoweverTheyAreCut) {
  const std::string one = Part("form-data; name=\"x\"", "1"), end = "--b--\r\n";
  ExpectParts("x=1", one + end);
  ExpectParts("x=1;y=2", one + Part("form-data; name=y", "2") + end);
  ExpectParts("x=", Part("form-data; name=\"x\"", "") + end);
  ExpectParts("f(a;b\".mp4)=\r\n--\r\n--a\r\n-",
              Part("form-data; name=f; filename=\"a;b\\\".mp4\"", "\r\n--\r\n--a\r\n-") + end);
  ExpectParts("x=1", "of nobody's interest\r\n" + one + end + "--b\r\nneither");
  ExpectParts("x=1", "--b \t\r\ncontent-type: text/plain\r\nCONTENT-DISPOSITION:FORM-DATA;NAME=x\r\n\r\n1\r\n--b--");
}

TEST(Multipart, WhatIsNone) {
  const std::string end = "--b--\r\n", one = Part("form-data; name=x", "1");
  ExpectParts("?", "");
  ExpectParts("x=1?", one + "--b");
  ExpectParts("?", "--b-");
  ExpectParts("", "x" + one + end);  // its boundary does not begin a line
  ExpectParts("?", Part("attachment; name=x", "1") + end);
  ExpectParts("?", Part("form-data", "1") + end);
  ExpectParts("?", Part("form-data; name=\"x", "1") + end);
  ExpectParts("?", Part("form-data; =x", "1") + end);
  ExpectParts("?", Part("form-data name=x", "1") + end);
  ExpectParts("?", "--b\r\n\r\n1\r\n" + end);
  ExpectParts("?", "--b\r\nno colon\r\n\r\n1\r\n" + end);
  ExpectParts("?", "--bx\r\n" + end);
  ExpectParts("?", "--b" + std::string(1000, ' ') + "\r\n" + end);
  ExpectParts("?", "--b\r\nX: " + std::string(9000, 'y') + "\r\n\r\n1\r\n" + end);
  std::string many;
  for (int i = 0; i < 17; ++i) many += one;
  EXPECT_EQ(Parts(many + end, 100).back(), '?');
}

TEST(Multipart, Boundaries) {
  EXPECT_EQ(BoundaryOf("multipart/form-data; boundary=abc"), "abc");
  EXPECT_EQ(BoundaryOf("Multipart/Form-Data;charset=utf-8; Boundary=\"a b:c\""), "a b:c");
  for (const std::string& none :
       {std::string("multipart/form-data"), std::string("multipart/form-data; boundary="),
        std::string("multipart/form-data; boundary=\"a "), std::string("multipart/form-data; boundary=\"a \""),
        std::string("multipart/mixed; boundary=a"), std::string("multipart/form-data; boundary=a\"b"), std::string(),
        "multipart/form-data; boundary=" + std::string(71, 'a')}) {
    EXPECT_FALSE(BoundaryOf(none).has_value()) << none;
  }
}

}  // namespace
}  // namespace purekv::server

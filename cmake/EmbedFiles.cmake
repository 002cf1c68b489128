# Writes the C++ source of a list of files that become part of a program (src/server/page_files.h). Run at build time:
#   cmake -D FOLDER=DIR -D "NAMES=a.html=a.html|b.js=first.js+second.js" -D OUT=FILE.cc -P EmbedFiles.cmake
# b.js is made of two files, one behind the other.
# Bytes are written as escapes, so that nothing in a file can end its literal.
string(REPLACE "|" ";" names "${NAMES}")
set(bodies "")
set(list "")
set(number 0)
foreach(entry IN LISTS names)
  string(REGEX MATCH "^([^=]+)=(.+)$" matched "${entry}")
  set(name "${CMAKE_MATCH_1}")
  string(REPLACE "+" ";" parts "${CMAKE_MATCH_2}")
  set(hex "")
  foreach(part IN LISTS parts)
    file(READ ${FOLDER}/${part} bytes_of_part HEX)
    string(APPEND hex "${bytes_of_part}")
  endforeach()
  string(LENGTH "${hex}" digits)
  math(EXPR bytes "${digits} / 2")
  # A literal a line: neighbours are one to the compiler.
  string(REGEX REPLACE "(................................................................)" "\\1\n" hex "${hex}")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "\\\\x\\1" escapes "${hex}")
  string(REGEX REPLACE "([^\n]+)" "    \"\\1\"" lines "${escapes}")
  string(APPEND bodies "constexpr char kFile${number}[] =\n${lines};\n")
  string(APPEND list "    {\"${name}\", {kFile${number}, ${bytes}}},\n")
  math(EXPR number "${number} + 1")
endforeach()
file(WRITE ${OUT} "// Made by cmake/EmbedFiles.cmake.
#include \"server/page_files.h\"

namespace purekv::server {
namespace {

${bodies}
constexpr PageFile kFiles[] = {
${list}};

}  // namespace

std::span<const PageFile> PageFiles() {
  return kFiles;
}

}  // namespace purekv::server
")

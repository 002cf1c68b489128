# A room is a folder of src/ compiled as one object library; the library is made of all rooms.
set(PUREKV_ROOMS "" CACHE INTERNAL "")

# What most files of the target include of others.
function(purekv_precompile target)
  if(NOT PUREKV_PRECOMPILE)
    return()
  endif()
  target_precompile_headers(${target} PRIVATE <algorithm> <cmath> <cstdint> <cstring> <functional> <map> <memory>
                            <optional> <sstream> <span> <string> <utility> <vector> ${ARGN})
endfunction()

function(purekv_room name)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${name}/*.cc)
  if(NOT sources)
    return()
  endif()
  add_library(room_${name} OBJECT ${sources})
  target_include_directories(room_${name} PUBLIC ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(room_${name} PRIVATE purekv_dependencies)
  if(name MATCHES "checkpoint|models|engine|eval|server")
    purekv_precompile(room_${name} <nlohmann/json.hpp>)
  elseif(NOT name MATCHES "kernels|attention")
    purekv_precompile(room_${name})
  endif()
  set(PUREKV_ROOMS ${PUREKV_ROOMS} room_${name} CACHE INTERNAL "")
endfunction()

add_library(purekv_dependencies INTERFACE)
target_link_libraries(purekv_dependencies INTERFACE Threads::Threads purekv_dnnl PkgConfig::FFMPEG PkgConfig::JPEG
                      PkgConfig::PCRE2 PkgConfig::UTF8PROC PkgConfig::HWY PkgConfig::CRYPTO PkgConfig::CURL
                      PkgConfig::PROMETHEUS nlohmann_json::nlohmann_json)

function(purekv_library)
  foreach(room ${PUREKV_ROOMS})
    list(APPEND objects $<TARGET_OBJECTS:${room}>)
  endforeach()
  foreach(kind static shared)
    string(TOUPPER ${kind} upper)
    add_library(purekv_${kind} ${upper} ${objects})
    target_include_directories(purekv_${kind} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                               $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
    # Static: the dependencies' libraries are the user's link line too. Shared: they are the library's own.
    target_link_libraries(purekv_${kind} PRIVATE $<BUILD_INTERFACE:purekv_dependencies>)
    set_target_properties(purekv_${kind} PROPERTIES OUTPUT_NAME purekv VERSION ${PROJECT_VERSION}
                          SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
    target_compile_features(purekv_${kind} PUBLIC cxx_std_20)
  endforeach()
  # Who installs the static library links what the library was built with; cmake/purekvConfig.cmake.in finds it there.
  target_link_libraries(purekv_static INTERFACE $<INSTALL_INTERFACE:purekv::dependencies>)
  # The names that find_package(purekv) gives, so that a project which adds this one as a folder reads the same.
  add_library(purekv::purekv ALIAS purekv_shared)
  add_library(purekv::purekv_static ALIAS purekv_static)
endfunction()

# Everything here is a Debian/Ubuntu package; scripts/setup.sh installs the lot.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(FFMPEG REQUIRED IMPORTED_TARGET libavformat libavcodec libavutil libswscale)
pkg_check_modules(JPEG REQUIRED IMPORTED_TARGET libjpeg)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(HWY REQUIRED IMPORTED_TARGET libhwy)
pkg_check_modules(CRYPTO REQUIRED IMPORTED_TARGET libcrypto)
pkg_check_modules(PROMETHEUS REQUIRED IMPORTED_TARGET prometheus-cpp-core)
pkg_check_modules(CURL REQUIRED IMPORTED_TARGET libcurl>=7.87)  # the first that can leave a name unresolved
find_package(nlohmann_json REQUIRED)
find_package(Eigen3 3.3 REQUIRED NO_MODULE)
find_package(Boost 1.74 REQUIRED)  # the server's sockets and HTTP, headers alone

# oneDNN by its files: Debian's CMake package insists on OpenCL headers, which a CPU build never touches.
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp REQUIRED)
find_library(DNNL_LIBRARY dnnl REQUIRED)
add_library(purekv_dnnl INTERFACE)
target_include_directories(purekv_dnnl SYSTEM INTERFACE ${DNNL_INCLUDE_DIR})
target_link_libraries(purekv_dnnl INTERFACE ${DNNL_LIBRARY})

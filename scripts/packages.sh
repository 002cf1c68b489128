# The Debian and Ubuntu packages that PureKV needs: the one place that lists them. Sourced by setup.sh.
# shellcheck shell=bash disable=SC2034

# To build, test and run.
build_packages=(
  g++ cmake ninja-build ccache pkg-config
  libdnnl-dev          # dense layers
  libhwy-dev           # SIMD
  libavformat-dev libavcodec-dev libavutil-dev libswscale-dev libjpeg-dev  # videos and images
  libpcre2-dev libutf8proc-dev                                 # tokenizer
  nlohmann-json3-dev libcli11-dev
  libboost-dev         # the server's sockets and HTTP
  libssl-dev           # SHA-256
  prometheus-cpp-dev   # the server's metrics
  libcurl4-openssl-dev # media by URL
  libeigen3-dev        # eigenvectors of keys and values (calibrate --basis)
  libgtest-dev libgmock-dev libbenchmark-dev
)

# For .ci/run and scripts/fuzz.sh besides: fuzz targets, checks of the shell scripts, a browser for the report's and the server's
# page and what drives it, tests/server and tests/torture.
ci_packages=(clang libclang-rt-dev shellcheck chromium chromium-driver python3-selenium python3)

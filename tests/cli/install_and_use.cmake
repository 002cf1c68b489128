# Installs this build into a temporary directory, then builds and runs examples/ask_video there with find_package (shared and
# static) and with pkg-config.
#   cmake -D BINARY_DIR=... -D SOURCE_DIR=... -D CXX=... -D BUILD_TYPE=... -D SANITIZE=... -P install_and_use.cmake
cmake_minimum_required(VERSION 3.22)
set(work ${BINARY_DIR}/install_and_use)
set(prefix ${work}/prefix)
set(example ${SOURCE_DIR}/examples/ask_video)
file(REMOVE_RECURSE ${work})

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    string(JOIN " " command ${ARGV})
    message(FATAL_ERROR "${command}\nexit ${status}\n${output}")
  endif()
endfunction()

# The example without arguments says how it is used; with a demo model it answers.
function(try program)
  execute_process(COMMAND ${program} RESULT_VARIABLE status ERROR_VARIABLE error)
  if(NOT status EQUAL 2 OR NOT error MATCHES "usage")
    message(FATAL_ERROR "${program}: exit ${status}, not 2: ${error}")
  endif()
  file(GLOB videos ${SOURCE_DIR}/models/demo/eval/*.mp4)
  if(videos AND EXISTS ${SOURCE_DIR}/models/demo/config.json)
    list(GET videos 0 video)
    run(${program} ${SOURCE_DIR}/models/demo ${video} "What is in the video?")
  endif()
endfunction()

run(${CMAKE_COMMAND} --install ${BINARY_DIR} --prefix ${prefix})

set(flags "")
if(SANITIZE)
  set(flags -fsanitize=${SANITIZE})
endif()
foreach(static OFF ON)
  set(build ${work}/static_${static})
  run(${CMAKE_COMMAND} -S ${example} -B ${build} -G Ninja -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_CXX_COMPILER=${CXX}
      -DCMAKE_BUILD_TYPE=${BUILD_TYPE} -DASK_VIDEO_STATIC=${static} "-DCMAKE_CXX_FLAGS=${flags}")
  run(${CMAKE_COMMAND} --build ${build})
  try(${build}/ask_video)
endforeach()

file(GLOB_RECURSE pc ${prefix}/*/purekv.pc)
get_filename_component(pc_dir ${pc} DIRECTORY)
get_filename_component(lib_dir ${pc_dir} DIRECTORY)
set(ENV{PKG_CONFIG_PATH} ${pc_dir})
execute_process(COMMAND pkg-config --cflags --libs purekv OUTPUT_VARIABLE line OUTPUT_STRIP_TRAILING_WHITESPACE
                COMMAND_ERROR_IS_FATAL ANY)
separate_arguments(line UNIX_COMMAND "${line}")
run(${CXX} -std=c++20 ${flags} ${example}/main.cc ${line} -Wl,-rpath,${lib_dir} -o ${work}/ask_video)
try(${work}/ask_video)
run(${prefix}/bin/purekv --version)
file(REMOVE_RECURSE ${work})

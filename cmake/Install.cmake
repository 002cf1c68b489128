# cmake --install: headers, both libraries, and what makes find_package(purekv) and pkg-config purekv work elsewhere.
include(CMakePackageConfigHelpers)

set(PUREKV_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/purekv)
set_target_properties(purekv_shared PROPERTIES EXPORT_NAME purekv)
install(TARGETS purekv_shared purekv_static EXPORT purekvTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/purekv DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN *.h)
install(EXPORT purekvTargets NAMESPACE purekv:: DESTINATION ${PUREKV_CMAKE_DIR})

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/purekvConfig.cmake.in ${PROJECT_BINARY_DIR}/purekvConfig.cmake
                              INSTALL_DESTINATION ${PUREKV_CMAKE_DIR} NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may break what was there.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/purekvConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/purekvConfig.cmake ${PROJECT_BINARY_DIR}/purekvConfigVersion.cmake
        DESTINATION ${PUREKV_CMAKE_DIR})

# Builds what is installed and nothing else: cmake --install needs all of it.
add_custom_target(purekv_installed DEPENDS purekv_cli purekv_shared purekv_static)

# pkg-config: a relocatable file, its prefix is where it lies.
string(REGEX REPLACE "[^/]+" ".." PUREKV_PC_UP "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
set(PUREKV_PC_PRIVATE "-ldnnl -lpthread")
configure_file(${PROJECT_SOURCE_DIR}/cmake/purekv.pc.in ${PROJECT_BINARY_DIR}/purekv.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/purekv.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

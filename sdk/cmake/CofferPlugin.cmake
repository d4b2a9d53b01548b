# coffer_add_plugin(NAME SOURCES...): a loadable plugin NAME.so with one exported symbol.
#
# Hidden visibility alone still exports std:: templates, so a version script hides everything else, and
# -fno-gnu-unique keeps two plugins built with different SDK versions from sharing one object.
include_guard()
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-fno-gnu-unique COFFER_HAVE_NO_GNU_UNIQUE)
set(COFFER_PLUGIN_VERSION_SCRIPT ${CMAKE_CURRENT_LIST_DIR}/plugin.version)

function(coffer_add_plugin name)
  add_library(${name} MODULE ${ARGN})
  set_target_properties(${name} PROPERTIES
    PREFIX "" SUFFIX ".so"
    C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    LINK_DEPENDS ${COFFER_PLUGIN_VERSION_SCRIPT})
  if(COFFER_BUILD_PLUGIN_DIR)
    set_target_properties(${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${COFFER_BUILD_PLUGIN_DIR})
    install(TARGETS ${name} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/coffer/plugins)
  endif()
  if(COFFER_HAVE_NO_GNU_UNIQUE)
    target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fno-gnu-unique>)
  endif()
  target_link_options(${name} PRIVATE
    "LINKER:--version-script=${COFFER_PLUGIN_VERSION_SCRIPT}" LINKER:--exclude-libs,ALL LINKER:-z,nodelete)
  target_link_libraries(${name} PRIVATE coffer::sdk)
endfunction()

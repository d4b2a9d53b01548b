# coffer_docker_test(NAME COMMAND ARG...): a test that needs a Docker engine.  It finds it in its environment, see
# tests/docker/engine; the engine is started before the first of these tests and stopped after the last.  A command that
# ends with 77 was skipped.
function(coffer_docker_test name command)
  if(NOT command STREQUAL COMMAND)
    message(FATAL_ERROR "coffer_docker_test(NAME COMMAND ARG...)")
  endif()
  add_test(NAME ${name} COMMAND ${CMAKE_SOURCE_DIR}/tests/docker/engine run ${CMAKE_BINARY_DIR}/dockerd ${ARGN})
  set_tests_properties(${name} PROPERTIES FIXTURES_REQUIRED dockerd LABELS docker SKIP_RETURN_CODE 77 TIMEOUT 900)
endfunction()

coffer_add_conformance_suite(injector injector_suite.cc)

# The suite is tested itself: with a toy that keeps the contract, and with toys that break it in one place.
function(toy_injector name broken)
  add_library(${name} MODULE broken/toy_injector.cc)
  set_target_properties(${name} PROPERTIES PREFIX "" CXX_VISIBILITY_PRESET hidden)
  target_compile_definitions(${name} PRIVATE BROKEN=${broken})
  target_link_libraries(${name} PRIVATE coffer::sdk)
endfunction()

set(toy_arguments "--bindings=[\"ALPHA\",\"BRAVO\",\"CHARLIE\"]" --needs=ALPHA --broken=[Zebrafish])
toy_injector(toy-injector NONE)
coffer_add_conformance_test(injector toy-injector ${toy_arguments})
foreach(pair
    QUOTES_BINDINGS=BrokenBindingsAreRefusedAndNotQuoted
    DELIVERS_UNANNOUNCED=RenderMakesExactlyWhatPlanAnnounced
    FORGETS_ONE=RenderMakesExactlyWhatPlanAnnounced
    IGNORES_TAKEN=ATakenNameIsTreatedAsDeclared
    IGNORES_VIAS=WhatTheRuntimeCannotDoIsRefused
    CHANGES_VALUES=ValuesArriveByteForByte
    KEEPS_VALUES=AfterRenderOnlyTheHostHoldsTheValues
    LOGS_VALUES=ValuesAreInNoLogErrorOrFile
    OPENS_FILES=PlanAndRenderDoNoInputOrOutputAndReadNoEnvironment
    READS_ENVIRONMENT=PlanAndRenderDoNoInputOrOutputAndReadNoEnvironment
    DOES_NOT_STOP=EmissionEndsWhenTheHostSaysSo
    COUNTS_CALLS=TheSameInputGivesTheSameOutput
    MISSING_IS_SKIPPED=ANamedSecretThatIsMissingIsNotFoundByName)
  string(REPLACE "=" ";" pair ${pair})
  list(GET pair 0 broken)
  list(GET pair 1 test)
  string(TOLOWER ${broken} plugin)
  string(REPLACE "_" "-" plugin ${plugin})
  toy_injector(toy-injector-${plugin} ${broken})
  coffer_add_broken_plugin_test(injector toy-injector-${plugin} Injector.${test} ${toy_arguments})
endforeach()

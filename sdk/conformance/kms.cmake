coffer_add_conformance_suite(kms kms_suite.cc)

# The suite is tested itself: with a toy that keeps the contract, and with toys that break it in one place.
function(toy_kms name broken)
  add_library(${name} MODULE broken/toy_kms.cc)
  set_target_properties(${name} PROPERTIES PREFIX "" CXX_VISIBILITY_PRESET hidden)
  target_compile_definitions(${name} PRIVATE BROKEN=${broken})
  target_link_libraries(${name} PRIVATE coffer::sdk)
endfunction()

toy_kms(toy-kms NONE)
coffer_add_conformance_test(kms toy-kms "path={tmp}")
foreach(pair
    IGNORES_CONTEXT=TheContextIsBound
    DOES_NOT_ENCRYPT=TheCiphertextDoesNotHoldThePlaintext
    DOES_NOT_VERIFY=EveryChangedByteOfTheCiphertextIsNoticed
    KEEPS_PLAINTEXT=AfterUnwrapOnlyTheSinkHoldsThePlaintext
    LOGS_PLAINTEXT=ThePlaintextIsInNoLogErrorOrFile
    WRITES_TWICE=ThePlaintextIsWrittenExactlyOnce
    CREATE_REPLACES=CreatingAnExistingKeyChangesNothing
    LEAKS_DESCRIPTORS=AThousandCallsLeaveNoDescriptorBehind
    REPEATS_NONCE=WrappingTwiceGivesDifferentBytes
    TAKES_ANY_SIZE=KeysOf0And65BytesAreRefused
    TAKES_ANY_VERSION=AnUnknownVersionIsNotFound
    EMITS_BEFORE_VERIFYING=EveryChangedByteOfTheCiphertextIsNoticed)
  string(REPLACE "=" ";" pair ${pair})
  list(GET pair 0 broken)
  list(GET pair 1 test)
  string(TOLOWER ${broken} plugin)
  string(REPLACE "_" "-" plugin ${plugin})
  toy_kms(toy-kms-${plugin} ${broken})
  coffer_add_broken_plugin_test(kms toy-kms-${plugin} Kms.${test} "path={tmp}")
endforeach()

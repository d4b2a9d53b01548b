// What the suite cannot say: the bindings of inject-env, and what an environment cannot hold.
#include <coffer/injector.h>
#include <gmock/gmock.h>

#include <map>

#include "test_host.h"

namespace coffer::conformance {
namespace {

using testing::HasSubstr;
using testing::Not;

class InjectEnv : public PluginTest {
 protected:
  void SetUp() override {
    PluginTest::SetUp();
    plugin_ = open();
    table_ = plugin_->table<coffer_injector>(COFFER_INJECTOR_ID);
  }
  void TearDown() override {
    plugin_.reset();
    PluginTest::TearDown();
  }

  struct Secret {
    std::string name, value;
    bool taken = false;
  };
  struct Answer {
    coffer_status status = COFFER_UNKNOWN;
    std::string message;
    std::map<std::string, std::string> variables;  // plan: to the secret; render: to the value
  };

  Answer call(bool render, const std::string &bindings, const std::vector<Secret> &secrets) const {
    std::vector<coffer_secret> raw;
    for (const Secret &s : secrets)
      raw.push_back({sizeof(coffer_secret), s.taken ? COFFER_SECRET_TAKEN : 0, str(s.name),
                     render ? bytes(s.value) : coffer_bytes{}});
    std::vector<const coffer_secret *> list;
    for (const coffer_secret &s : raw) list.push_back(&s);
    coffer_inject_request request{};
    request.struct_size = sizeof request;
    request.vias = COFFER_VIA_ENV;
    request.bindings_json = str(bindings);
    request.secrets = list.data();
    request.n_secrets = list.size();
    Answer out;
    TestCall c;
    if (render)
      out.status = table_->render(
          plugin_->raw(), c, &request,
          [](void *ctx, const coffer_delivery *d) noexcept {
            static_cast<Answer *>(ctx)->variables[std::string(view(d->name))] = view(d->value);
            return 0;
          },
          &out);
    else
      out.status = table_->plan(
          plugin_->raw(), c, &request,
          [](void *ctx, coffer_str secret, const coffer_delivery *d) noexcept {
            static_cast<Answer *>(ctx)->variables[std::string(view(d->name))] = view(secret);
            return 0;
          },
          &out);
    out.message = c.message();
    return out;
  }
  using Variables = std::map<std::string, std::string>;

 private:
  std::unique_ptr<OpenInstance> plugin_;
  const coffer_injector *table_ = nullptr;
};

TEST_F(InjectEnv, WithoutBindingsEverythingUntakenGoesUnderItsOwnName) {
  EXPECT_EQ(call(false, "", {{"A", ""}, {"B", "", true}, {"C", ""}}).variables,
            (Variables{{"A", "A"}, {"C", "C"}}));
}

TEST_F(InjectEnv, AlsoBringsBackWhatWasTaken) {
  EXPECT_EQ(call(false, R"({"also":["B"]})", {{"A", ""}, {"B", "", true}}).variables,
            (Variables{{"A", "A"}, {"B", "B"}}));
}

TEST_F(InjectEnv, ARenamedSecretAppearsUnderItsNewNamesOnly) {
  EXPECT_EQ(call(false, R"({"rename":{"X":"A","Y":"A"}})", {{"A", ""}, {"B", ""}}).variables,
            (Variables{{"X", "A"}, {"Y", "A"}, {"B", "B"}}));
  EXPECT_EQ(call(false, R"({"rename":{"X":"A"}})", {{"A", "", true}}).variables, (Variables{{"X", "A"}}));
  EXPECT_EQ(call(false, R"({"rename":{"A":"B","B":"A"}})", {{"A", ""}, {"B", ""}}).variables,
            (Variables{{"A", "B"}, {"B", "A"}}));
}

TEST_F(InjectEnv, ARenamedSecretKeepsItsNameWhereThatIsOneOfItsVariables) {
  const std::string bindings = R"({"rename":{"A":"A","X":"A","B":"B"},"only":["A","B"]})";
  EXPECT_EQ(call(false, bindings, {{"A", ""}, {"B", "", true}, {"C", ""}}).variables,
            (Variables{{"A", "A"}, {"X", "A"}, {"B", "B"}}));
  EXPECT_EQ(call(true, bindings, {{"A", "1"}, {"B", "2", true}}).variables,
            (Variables{{"A", "1"}, {"X", "1"}, {"B", "2"}}));
  EXPECT_EQ(call(false, R"({"rename":{},"only":[]})", {{"A", ""}}).variables, (Variables{}));
}

TEST_F(InjectEnv, OnlyLeavesOutEverythingElse) {
  EXPECT_EQ(call(false, R"({"only":["A"]})", {{"A", ""}, {"B", ""}}).variables, (Variables{{"A", "A"}}));
  EXPECT_EQ(call(false, R"({"only":["A"],"rename":{"X":"B"}})", {{"A", ""}, {"B", ""}}).variables,
            (Variables{{"A", "A"}}));
  EXPECT_EQ(call(false, R"({"only":[]})", {{"A", ""}}).variables, (Variables{}));
}

TEST_F(InjectEnv, RenderNeedsOnlyWhatPlanAskedFor) {
  // B is taken and C is not wanted, so the host does not open them.
  const std::string bindings = R"({"only":["A","B"],"rename":{"X":"C"}})";
  ASSERT_EQ(call(false, bindings, {{"A", ""}, {"B", "", true}, {"C", ""}}).variables,
            (Variables{{"A", "A"}}));
  const Answer r = call(true, bindings, {{"A", "value"}});
  EXPECT_EQ(r.status, COFFER_OK) << r.message;
  EXPECT_EQ(r.variables, (Variables{{"A", "value"}}));
}

TEST_F(InjectEnv, ANameThatDoesNotExistIsNotFoundWithTheRemedy) {
  for (const char *bindings : {R"({"also":["B"]})", R"({"only":["A","B"]})", R"({"rename":{"X":"B"}})"}) {
    const Answer a = call(false, bindings, {{"A", ""}});
    EXPECT_EQ(a.status, COFFER_NOT_FOUND) << bindings;
    EXPECT_THAT(a.message, HasSubstr("coffer secrets set B=-")) << bindings;
    EXPECT_TRUE(a.variables.empty());
  }
}

TEST_F(InjectEnv, EveryByteButNulIsPassedOn) {
  std::string value;
  for (int i = 1; i < 256; ++i) value.push_back(static_cast<char>(i));
  value += "\nFORGED=1\n";
  EXPECT_EQ(call(true, "", {{"A", value}}).variables, (Variables{{"A", value}}));
}

TEST_F(InjectEnv, ANulByteIsRefusedByNameWithTheAdviceToMountAFile) {
  const Answer a = call(true, "", {{"A", "fine"}, {"B", std::string("Zebra\0fish", 10)}});
  EXPECT_EQ(a.status, COFFER_FAILED_PRECONDITION);
  EXPECT_THAT(a.message, HasSubstr("secret B"));
  EXPECT_THAT(a.message, HasSubstr("--file"));
  EXPECT_THAT(a.message, Not(HasSubstr("Zebra")));
  EXPECT_TRUE(a.variables.empty()) << "something was delivered before all was checked";
}

TEST_F(InjectEnv, TheLongestEntryHas131071Bytes) {
  EXPECT_EQ(call(true, "", {{"NAME", std::string(131'071 - 5, 'x')}}).status, COFFER_OK);
  const Answer a = call(true, "", {{"NAME", std::string(131'071 - 4, 'x')}});
  EXPECT_EQ(a.status, COFFER_FAILED_PRECONDITION);
  EXPECT_THAT(a.message, HasSubstr("secret NAME"));
  EXPECT_THAT(a.message, HasSubstr("131072 bytes"));
  EXPECT_THAT(a.message, HasSubstr("--file"));
  // It is the variable's name that counts, not the secret's.
  EXPECT_EQ(call(true, R"({"rename":{"N":"NAME"}})", {{"NAME", std::string(131'071 - 2, 'x')}}).status,
            COFFER_OK);
}

TEST_F(InjectEnv, MoreThanAnEnvironmentHoldsIsRefusedBeforeAnythingIsDelivered) {
  std::vector<Secret> secrets;
  for (char c = 'A'; c <= 'P'; ++c) secrets.push_back({std::string(1, c), std::string(131'000, 'x')});
  const Answer a = call(true, "", secrets);
  EXPECT_EQ(a.status, COFFER_FAILED_PRECONDITION);
  EXPECT_THAT(a.message, HasSubstr("--file"));
  EXPECT_TRUE(a.variables.empty());
  secrets.pop_back();
  EXPECT_EQ(call(true, "", secrets).status, COFFER_OK);
}

}  // namespace
}  // namespace coffer::conformance

int main(int argc, char **argv) { return coffer::conformance::run_suite(argc, argv, COFFER_INJECTOR_ID); }

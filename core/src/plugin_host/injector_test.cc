#include "coffer/plugin_host/injector.h"

#include "test_plugins.h"

namespace coffer {
namespace {

using testing::HasSubstr;

class InjectorFront : public PluginHostTest {
 protected:
  Injector open(const std::string &lie = "") {
    install("fake-injector");
    Result<Injector> i = Injector::open(config("fake-injector", {{"lie", lie}}));
    if (!i) throw std::runtime_error(i.error().message);
    return *std::move(i);
  }
  Result<std::vector<Need>> plan(const std::string &lie = "") {
    return open(lie).plan(request_, {"A", "B"}, {});
  }
  Result<std::vector<Delivery>> render(const std::string &lie = "") {
    OpenedSecret a{"A", SecretBytes::copy_of(as_bytes("value of a"))};
    OpenedSecret b{"B", SecretBytes::copy_of(as_bytes(std::string_view("\0\xff", 2)))};
    COFFER_TRY(const std::vector<Need> planned, plan());
    return open(lie).render(request_, {&a, &b}, {}, planned);
  }
  const InjectRequest request_{COFFER_VIA_ENV | COFFER_VIA_TMPFS, "app", "machine", "{}"};
};

TEST_F(InjectorFront, DeliversExactlyWhatItPlanned) {
  const auto needs = plan();
  ASSERT_TRUE(succeeds(needs));
  ASSERT_EQ(needs->size(), 2u);
  EXPECT_EQ((*needs)[0].secret, "A");
  EXPECT_EQ((*needs)[0].where.name, "A");
  EXPECT_TRUE((*needs)[0].where.value.empty());
  const auto deliveries = render();
  ASSERT_TRUE(succeeds(deliveries));
  ASSERT_EQ(deliveries->size(), 2u);
  EXPECT_EQ(as_text((*deliveries)[0].value.reveal()), "value of a");
  EXPECT_EQ(as_text((*deliveries)[1].value.reveal()), std::string_view("\0\xff", 2));
  EXPECT_TRUE((*deliveries)[0].secret);
}

TEST_F(InjectorFront, MarksNamesThatAreTaken) {
  const auto needs = open().plan(request_, {"A", "B"}, {"A"});
  ASSERT_TRUE(succeeds(needs));
  ASSERT_EQ(needs->size(), 1u);
  EXPECT_EQ((*needs)[0].secret, "B");
}

struct Lie {
  const char *lie, *says;
};
class LyingPlan : public InjectorFront, public testing::WithParamInterface<Lie> {};
TEST_P(LyingPlan, IsDataLossByName) {
  EXPECT_THAT(plan(GetParam().lie),
              FailsWith(ErrorCode::kDataLoss, "plugin fake-injector: plan: " + std::string(GetParam().says)));
}
INSTANTIATE_TEST_SUITE_P(All, LyingPlan,
                         testing::Values(Lie{"unknown secret",
                                             "asked for a secret that the manifest does not have"},
                                         Lie{"other via", "answered a way that the runtime does not have"},
                                         Lie{"two vias", "answered a way that the runtime does not have"},
                                         Lie{"mode", "answered a file mode over 0777"},
                                         Lie{"bad variable", "answered a place that is neither"},
                                         Lie{"relative file", "answered a place that is neither"},
                                         Lie{"dots", "answered a place that is neither"},
                                         Lie{"root", "answered a place that is neither"},
                                         Lie{"slash", "answered a place that is neither"},
                                         Lie{"value early", "answered a value in the plan"},
                                         Lie{"not secret", "called the delivery of a secret not secret"},
                                         Lie{"short delivery", "answered a delivery that is too short"},
                                         Lie{"bound twice", "bound one place twice"}));

class LyingRender : public InjectorFront, public testing::WithParamInterface<Lie> {};
TEST_P(LyingRender, IsDataLossByName) {
  const auto rendered = render(GetParam().lie);
  ASSERT_THAT(rendered, FailsWith(ErrorCode::kDataLoss,
                                  "plugin fake-injector: render: " + std::string(GetParam().says)));
  EXPECT_THAT(rendered.error().message, Not(HasSubstr("value of a")));
}
INSTANTIATE_TEST_SUITE_P(All, LyingRender,
                         testing::Values(Lie{"left out", "left out a delivery that it had planned"},
                                         Lie{"unplanned", "answered a delivery that it had not planned"},
                                         Lie{"other mode", "answered a delivery that it had not planned"},
                                         Lie{"no longer secret",
                                             "answered a delivery that it had not planned"},
                                         Lie{"large value", "answered a value of more than 1 MiB"},
                                         Lie{"twice", "answered a delivery twice"}));

}  // namespace
}  // namespace coffer

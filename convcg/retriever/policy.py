"""What a surface promises: how many candidates, which pins are left out, how many a single advertiser may have."""

from pydantic import Field, model_validator

from convcg.setting import Settings
from convcg.types import Surface

#: Beside a much larger number a float32 score would forget how these pins differ.
_MAX_REPEAT_BONUS = 1_000.0


class SurfacePolicy(Settings):
    """The policy of one surface."""

    #: Candidates for a request that does not say how many.
    k: int = Field(default=200, ge=1)
    max_k: int = Field(default=2000, ge=1)
    #: Leave out what the person has checked out before.
    exclude_purchased: bool = True
    #: Added to the score of what the person has checked out before: purchases up to the end of the training time, from
    #: the user table, and the checkouts of the request's own history. In the units of the score; more than scores
    #: differ by puts all of them first.
    repeat_bonus: float = Field(default=0.0, ge=0, le=_MAX_REPEAT_BONUS)
    #: At most this many candidates of one advertiser; None for no cap.
    max_per_advertiser: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _k_within_max(self) -> "SurfacePolicy":
        if self.k > self.max_k:
            raise ValueError(f"k = {self.k} is above max_k = {self.max_k}; lower k or raise max_k")
        return self

    @model_validator(mode="after")
    def _only_what_may_return_has_a_bonus(self) -> "SurfacePolicy":
        if self.repeat_bonus and self.exclude_purchased:
            raise ValueError(
                f"repeat_bonus = {self.repeat_bonus} is for what was bought before, and exclude_purchased leaves that "
                "out; set exclude_purchased to false or repeat_bonus to 0"
            )
        return self


class RetrievalConfig(Settings):
    """The policies of the three surfaces."""

    home_feed: SurfacePolicy = SurfacePolicy()
    related_pins: SurfacePolicy = SurfacePolicy()
    search: SurfacePolicy = SurfacePolicy()

    def policy(self, surface: Surface) -> SurfacePolicy:
        """The policy of a surface."""
        policy: SurfacePolicy = getattr(self, surface.value)
        return policy

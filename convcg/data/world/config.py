"""The built-in world's settings: every knob, and what it does.

Each source of noise can be swept from 0, where it is absent. Knobs of one stage leave the draws of earlier stages as
they are: another reporting delay, say, changes no impression and no click.
"""

from datetime import UTC, date, datetime
from typing import Annotated

from pydantic import Field, model_validator

from convcg.setting import Settings

DAY_SECONDS = 86_400.0

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Noise = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-20, le=20, allow_inf_nan=False)]
Length = Annotated[int, Field(ge=2, le=1024)]


class WorldConfig(Settings):
    """The size and the temper of the built-in world. The defaults give about 230,000 events in seconds."""

    # Size.
    seed: int = Field(7, ge=0, description="The same seed gives the same tables; another seed another world.")
    num_users: int = Field(1500, ge=10, le=100_000_000, description="People in the users table.")
    num_pins: int = Field(3000, ge=50, le=10_000_000, description="Product pins in the catalogue.")
    num_advertisers: int = Field(120, ge=2, le=1_000_000, description="Advertisers that share the pins, unevenly.")
    num_days: int = Field(28, ge=2, le=365, description="Days that the log covers; what happens later is not in it.")
    start: date = Field(date(2025, 1, 6), ge=date(2000, 1, 1), description="First day of the log, from midnight UTC.")
    users_per_block: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="People drawn together, and the unit of parallel work: one file of events and one of users. "
        "Memory grows with it. Another size gives another world.",
    )

    # Pins and their vectors.
    vector_dim: int = Field(16, ge=4, le=256, description="Length of the latent vectors that all behaviour comes from.")
    visual_dim: Length = Field(16, description="Length of each pin's `visual` vector.")
    text_dim: Length = Field(16, description="Length of each pin's `text` vector.")
    graph_dim: Length = Field(16, description="Length of each pin's `graph` vector.")
    visual_noise: Noise = Field(0.5, description="Noise in `visual`, relative to the latent's length; 0 shows it all.")
    text_noise: Noise = Field(0.9, description="Noise in `text`, likewise.")
    graph_noise: Noise = Field(0.7, description="Noise in `graph`, likewise.")
    catalogue_spread: Noise = Field(0.6, description="How far an advertiser's pins lie from each other; 0: all alike.")
    new_pins: Share = Field(0.2, description="Share of pins that first appear on some day of the log after the first.")
    sold_out: Share = Field(0.1, description="Share of pins that go out of stock for good on some day of the log.")

    # People and their requests.
    sessions_per_user: float = Field(11.0, gt=0, le=1000, description="Mean requests a person makes in the whole log.")
    activity_spread: Noise = Field(0.6, description="How unequally active people are: log-normal sigma; 0: equally.")
    growth: float = Field(
        0.25, ge=0, le=5, description="How traffic grows: its density is proportional to time^growth."
    )
    surface_shares: tuple[Share, Share, Share] = Field(
        (0.45, 0.3, 0.25), description="Shares of requests on home feed, related pins and search."
    )
    interest_drift: float = Field(0.5, ge=0, le=5, description="How far each interest moves by the end; 0 stays put.")
    intent_noise: Noise = Field(
        0.5, description="How far what is wanted in one request strays from the interest behind it; 0: not at all."
    )
    vague_queries: Share = Field(0.33, description="Share of search queries that name the category, but no style.")

    # The logging policy.
    pins_per_session: int = Field(10, ge=2, le=50, description="Slots of one served slate, each an impression.")
    auction_size: int = Field(
        256,
        ge=16,
        le=4096,
        description="Ads near the guessed intent that an auction scores, at most: few miss the nearest, many let "
        "farther ones win by chance. Cost grows with it.",
    )
    policy_noise: Noise = Field(0.6, description="How far the policy's guess of the intent is off; 0 reads minds.")
    budget_spread: Noise = Field(0.7, description="How unequally advertisers' budgets push their ads; 0: equally.")
    exploration: Share = Field(0.3, description="Share of slots filled uniformly instead of by the auction.")

    # Clicks, dwell, repins.
    click_bias: Bias = Field(-2.8, description="Logit of a click on a pin that is orthogonal to the intent.")
    repin_bias: Bias = Field(-5.2, description="Logit of a repin of such a pin.")
    affinity_weight: Weight = Field(4.0, description="Weight of affinity in clicks, repins and purchases; 0: chance.")
    allure: Weight = Field(0.8, description="Weight of what draws clicks and bounces but no purchases; 0: none.")
    false_clicks: Share = Field(
        0.01, description="Chance that an impression that is not wanted is clicked; it bounces."
    )
    dwell_signal: Weight = Field(1.0, description="How much longer people stay where they would buy; 0: no longer.")

    # Purchases.
    conversion_rate: Share = Field(0.4, description="Upper bound of the chance that a click that stays leads to one.")
    trust_weight: Weight = Field(1.2, description="Weight of trust in the advertiser in purchases; 0: all are trusted.")
    price_weight: Weight = Field(1.5, description="Weight of how ill a price suits the person; 0: nobody looks at it.")
    click_a_buy_b: Share = Field(
        0.3, description="Share of purchases that fall on another pin of the clicked pin's advertiser."
    )
    organic_purchases: float = Field(
        0.05, ge=0, le=10, description="Purchases without an ad behind them, for each purchase that has one."
    )
    purchase_delay_hours: float = Field(
        4.0, gt=0, le=720, description="Median hours from a click to the cart or checkout that follows."
    )

    # What advertisers report of them.
    label_noise: Share = Field(0.02, description="Share of reports that name a random pin of any advertiser.")
    under_reporting: Share = Field(0.15, description="Share of advertisers that lose reports.")
    under_reported: Share = Field(0.5, description="Share of their conversions that these never report.")
    over_reporting: Share = Field(0.1, description="Share of advertisers that report what did not happen.")
    over_reported: Share = Field(0.05, description="Chance that these report a checkout for a click that led to none.")
    double_reporting: Share = Field(0.2, description="Share of advertisers that report everything by tag and by API.")
    shared_event_ids: Share = Field(0.5, description="Share of double reports with one event id; others have two.")
    reported_in_hour: Share = Field(0.35, description="Share of reports that arrive within an hour of the conversion.")
    reported_in_day: Share = Field(0.5, description="Share that arrives within a day; the rest is a tail of weeks.")
    report_tail_days: float = Field(
        7.0, gt=0, le=30, description="Mean days of that tail beyond its first; none comes later than 30 days."
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> "WorldConfig":
        if self.reported_in_hour > self.reported_in_day:
            raise ValueError(
                f"reported_in_hour = {self.reported_in_hour} is above reported_in_day = {self.reported_in_day}; "
                "what arrives within an hour arrives within a day. Raise the one or lower the other."
            )
        if abs(sum(self.surface_shares) - 1) > 1e-6:
            raise ValueError(f"surface_shares = {self.surface_shares} must add up to 1. Scale them.")
        return self

    @property
    def start_seconds(self) -> float:
        """The start of the log in seconds since the epoch."""
        return datetime(self.start.year, self.start.month, self.start.day, tzinfo=UTC).timestamp()

    @property
    def end_seconds(self) -> float:
        """The end of the log, exclusive, in seconds since the epoch."""
        return self.start_seconds + self.num_days * DAY_SECONDS

    @property
    def num_blocks(self) -> int:
        """How many blocks of users there are."""
        return -(-self.num_users // self.users_per_block)

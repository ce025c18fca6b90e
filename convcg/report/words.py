"""What the report calls things."""

SYSTEMS = {
    "model": "the trained model",
    "popularity": "the same list for everybody: what was bought and clicked most",
    "popularity_7d": "the same list for everybody: what was bought and clicked most in the last seven days",
    "revisits": "what the person looked at last",
    "item_item": "pins that other people bought or clicked together with what this person did",
    "co_visitation": "pins that follow each other in people's visits",
    "ease": "EASE: a linear model that predicts a pin from the other pins of a person",
    "als": "ALS: matrix factorisation of who acted on what",
    "sasrec": "SASRec: a transformer that predicts the next pin of a sequence",
    "oracle": "knows the true tastes in the built-in world: no model can be better, on average",
}
SLICES = {
    "surface": ("On which surface", "Where the person was: home feed, related pins (below a pin), or search."),
    "action": ("What the person did", "Whether the product went into the cart or was bought."),
    "advertiser_size": ("How large the shop is", "Thirds of the shops by how many pins they have."),
    "pin_popularity": (
        "How popular the pin is",
        "The pins with a third of all actions are the head, the next third mid, the rest the tail.",
    ),
    "pin": ("Whether the pin is known", "Nobody had acted on a cold pin before training ended."),
    "conversions": ("How often the person had bought", "Purchases and carts before training ended."),
    "novelty": (
        "Whether the pin is new to the person",
        "Seen: the person had acted on it before. Bought: even bought it. Novel: neither.",
    ),
    "inventory": (
        "Whether the pin was ever shown",
        "Served: shown to anybody before training ended. Unserved: to nobody.",
    ),
}
WORDS = (
    ("pin", "one product ad, shown as a picture with a link to a shop"),
    ("query", "the moment at which candidates are asked for: who, where, and what was done before"),
    ("recall@100", "the share of queries for which the bought pin was among the first 100 candidates"),
    ("interval", "where the value would lie in 95 of 100 repetitions with other people (bootstrap over people)"),
    ("baseline", "a simple method that every model must beat"),
    ("seed", "the number that decides all chance in training; with several one sees how much chance matters"),
    ("Holm", "a correction: who tests twenty changes finds one by chance that looks real"),
    ("coverage", "the share of the catalogue that is a candidate for anybody at all"),
)


def plain(name: str) -> str:
    """A name of the code, as words."""
    return name.replace("_", " ")

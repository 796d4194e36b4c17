"""Ways to ask for a poem, and the lines that training poems are made of."""
# ruff: noqa: E501  (tables: one entry a line)

from __future__ import annotations

from demo.tasks.frames import frames

FORMS = {
    2: ("couplet", "rhyming couplet", "short couplet"),
    3: ("tercet", "haiku"),
    4: ("quatrain",),
    1: ("one-liner",),
}
ASKS = frames(
    """Write a {form} about {topic}.
    Write a {form} about {topic}.
    Write me a {form} about {topic}.
    Write a short {form} about {topic}.
    Write a nice {form} about {topic}.
    Compose a {form} about {topic}.
    Create a {form} about {topic}.
    Make a {form} about {topic}.
    Give me a {form} about {topic}.
    I want a {form} about {topic}.
    I need a {form} about {topic}.
    I would like a {form} about {topic}.
    Make up a {form} about {topic}.
    A {form} about {topic}
    Write a {form} on {topic}.
    Write a {form} on the topic of {topic}.
    Compose a short {form} on {topic}.
    Write {n} {lines} about {topic}.
    Write {n} {lines} of poetry about {topic}.
    Write {n} poetic {lines} about {topic}.
    Write a poem about {topic} in {n} {lines}.
    Write a poem of {n} {lines} about {topic}.
    Write a poem with {n} {lines} about {topic}.
    Write a short poem about {topic} with {n} {lines}.
    Describe {topic} in {n} {lines}.
    Describe {topic} in a {form}.
    Tell me about {topic} in {n} {lines}.
    In {n} {lines}, write about {topic}.
    In a {form}, describe {topic}.
    Give me {n} {lines} about {topic}.
    Produce a {form} about {topic}.
    Can you write a {form} about {topic}?
    Sing about {topic} in {n} {lines}.
    Draft a {form} about {topic}.""",
    """Please write a {form} on {topic}.
    Create a short {form} about {topic}.
    Give me a poem about {topic} in {n} {lines}.
    Compose a poem of {n} {lines} about {topic}.
    Make me a {form} about {topic}.
    Can you compose a {form} about {topic}?""",
)
WITH_ONE = frames(
    """ with the word {word}
     using the word {word}
     that uses the word {word}
     that contains the word {word}
     containing the word {word}
     including the word {word}
     that includes the word {word}
     and use the word {word}
     and include the word {word}
    . Use the word {word}
    . Include the word {word}
    . It must contain the word {word}
    . The word {word} must appear
     which has the word {word} in it
     that mentions {word}
     and mention the word {word}
     with the word {word} somewhere
     featuring the word {word}""",
    """ that has the word {word}
     with the word {word} in it
    . It must include the word {word}
    . Use the word {word} in it""",
)
WITH_TWO = frames(
    """ with the words {word} and {other}
     using the words {word} and {other}
     that uses the words {word} and {other}
     that contains the words {word} and {other}
     containing {word} and {other}
     including the words {word} and {other}
     and use the words {word} and {other}
    . Use the words {word} and {other}
    . Include the words {word} and {other}
     using both {word} and {other}""",
    """ that includes the words {word} and {other}
     with both {word} and {other}
    . It must contain the words {word} and {other}""",
)
ONE_LINE = {
    0: [
        "I dream of {topic} when the day is done.", "Oh {topic}, you stay with me tonight.", "There is music in {topic}.",
        "My heart belongs to {topic}.", "I sing of {topic} to the morning light.",
    ],
    1: [
        "I dream of {topic}, and {word} is all I hear.", "Oh {topic}, you taught me {word} tonight.",
        "There is {topic}, and there is {word}.", "I sing of {topic} and whisper {word}.",
        "My heart says {word} when I think of {topic}.",
    ],
    2: [
        "I dream of {topic}, of {word} and {other}.", "Oh {topic}, you are {word} and {other} tonight.",
        "There is {topic}, there is {word}, there is {other}.", "I sing of {topic}, of {word} and of {other}.",
    ],
}  # fmt: skip
BOTH = [
    "I dream of {topic} and of {word} tonight,", "I sing of {topic} and {word} once more,",
    "Oh {topic}, you taught me {word} one day,", "When I think of {topic}, I whisper {word},",
]  # fmt: skip
# (first lines with the topic; second, third and fourth lines, with a required word and without), all of one rhyme
RHYMES: list[tuple[list[str], list[str], list[str]]] = [
    (
        ["I dream of {topic} through the night,", "I think of {topic} in the light,", "Oh {topic}, you make the evening bright,"],
        ["And {word} is all I need tonight,", "A touch of {word} in the morning light,", "I call it {word} and hold it tight,"],
        ["The world is calm and full of light,", "And every star is burning bright,", "My heart is ready for its flight,",
         "The air is clear, the sky is white,"],
    ),
    (
        ["I sing of {topic} every day,", "I think of {topic} far away,", "Oh {topic}, will you come and stay,"],
        ["And {word} is what the breezes say,", "With {word} I go upon my way,", "Some {word} to chase the clouds away,"],
        ["The clouds are soft, the hills are gray,", "And all my worries drift away,", "The children laugh and run and play,",
         "A gentle end to a long day,"],
    ),
    (
        ["I remember {topic} by the sea,", "I hear that {topic} calls to me,", "Dear {topic}, you are wild and free,"],
        ["And {word} is where I want to be,", "With {word} beneath the apple tree,", "You whisper {word} and look at me,"],
        ["The waves are singing full of glee,", "A bird is singing in the tree,", "The road is long, the heart is free,",
         "And that is all I wish to see,"],
    ),
    (
        ["I wait for {topic} in the snow,", "I follow {topic} where I go,", "I ask of {topic} what you know,"],
        ["And {word} is in the winds that blow,", "With {word} around me, soft and slow,", "A little {word} begins to grow,"],
        ["The river sings a song below,", "The lamps are lit, the fires glow,", "And time is moving sweet and slow,",
         "The evening sets the hills aglow,"],
    ),
]  # fmt: skip

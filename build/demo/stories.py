"""The demo model's stories, articles and plain texts, written for this repository.

Every story is a fixed text with a slot for the hero's name, so that an answer can be checked
word for word and is long enough (100 to 300 tokens) to watch it stream.
"""

from __future__ import annotations

STORIES = {
    "fox": (
        "Once upon a time there was a young fox called {name}. {name} lived under an old oak at "
        "the edge of the forest. One winter evening the snow was deep and there was nothing to "
        "eat. {name} followed a small light between the trees and found a farm. The farmer's "
        "daughter saw the fox through the window. She opened the door and put a bowl of warm soup "
        "on the step. From that day on, {name} watched over the farm every night, and no hen was "
        "ever lost again."
    ),
    "cat": (
        "There was once a grey cat called {name} who wanted to see the sea. Every morning {name} "
        "sat on the roof and looked at the river. One day the cat jumped onto a boat and hid "
        "behind a box of apples. The boat went past fields, bridges and towns. In the evening it "
        "reached the sea, and the water was as wide as the sky. {name} looked at it for a long "
        "time. Then the cat said that the sea was beautiful, but much too wet, and took the next "
        "boat home."
    ),
    "robot": (
        "In a small workshop stood a robot called {name}. It could count every screw on the "
        "floor, but it could not laugh. One morning a little girl came in with a broken music "
        "box. {name} opened it, cleaned the wheels and turned the key. The music box played a "
        "song, and the girl began to dance. The robot moved one foot, and then the other. Soon "
        "they danced around the table together. {name} made a strange sound, and the girl smiled, "
        "because the robot was laughing at last."
    ),
    "dragon": (
        "High on a green mountain lived a dragon called {name}. All the people in the valley were "
        "afraid of the fire. But {name} was lonely and only wanted to talk to someone. One cold "
        "winter the wood in the village was wet and the stoves stayed dark. The dragon flew down, "
        "very slowly, and lit one stove after the other. The people came out of their houses and "
        "said thank you. Since then {name} comes down every winter, and nobody in the valley is "
        "cold or afraid."
    ),
    "bear": (
        "A brown bear called {name} could not sleep. The other bears had been asleep since "
        "November, but {name} lay awake and listened to the wind. So the bear stood up and walked "
        "through the white forest. For the first time {name} saw the snow fall, the frozen lake "
        "and the bright stars. An owl asked what a bear was doing there in winter. I am looking "
        "at all the things I missed, said {name}. Then the bear went home, closed both eyes and "
        "slept until spring."
    ),
    "boat": (
        "A small red boat called {name} lay in the harbour. The big ships laughed because it had "
        "only one sail. One night a storm came and a fishing boat was lost behind the rocks. The "
        "big ships could not go there, for the water was not deep enough. But {name} was small "
        "and light. It went between the rocks, found the fishermen and brought them home. In the "
        "morning all the big ships blew their horns, and nobody laughed at {name} again."
    ),
    "gardener": (
        "There was an old gardener called {name} who planted one tree every year. The neighbours "
        "asked why, for it takes many years until a tree bears fruit. {name} only smiled and "
        "brought more water. Years went by, and the children of the village grew up. One autumn "
        "they came to the garden, and every tree was full of red apples. Now we know for whom you "
        "planted them, said the children. {name} gave each of them an apple and a small tree to "
        "plant."
    ),
    "star": (
        "Far away in the night sky lived a little star called {name}. It was so small that nobody "
        "on the Earth had ever seen it. One night a boy was lost in the hills and looked for a "
        "light. The moon was behind the clouds and the big stars were asleep. So {name} shone as "
        "bright as it could, until the boy saw the path. He ran home and told his mother about "
        "it. Since that night the boy looks up every evening and says good night to {name}."
    ),
}

LONG_STORIES = {
    "lighthouse keeper": (
        "On a rock in the middle of the sea stood a lighthouse, and in the lighthouse lived a "
        "keeper called {name}. Every evening {name} climbed the two hundred steps, cleaned the "
        "glass and lit the lamp. The light went round and round, and the ships knew where the "
        "rocks were.\n\nOne autumn evening the lamp did not burn. The oil was gone, and the boat "
        "with new oil could not come because of the storm. {name} looked out of the window and "
        "saw the lights of a ship, far away. It was coming nearer and nearer to the rocks.\n\n"
        "What can I do, thought {name}. There was no oil, but there was wood: a table, four "
        "chairs, a bed and an old piano. First {name} burned the table, then the chairs, and then "
        "the bed. The fire was bright, but the ship was still too near. At last {name} looked at "
        "the piano, played one song for the last time and pushed it into the fire.\n\nThe flame "
        "was as high as a tree. The captain saw it, turned the ship and sailed past the rocks. In "
        "the morning the sea was quiet. {name} slept on the floor of an empty room.\n\nA month "
        "later the ship came back. The sailors carried a table, four chairs, a bed and a new "
        "piano up the two hundred steps. They had built the piano themselves, and on it was "
        "written: for {name}, who gave us light."
    ),
    "train": (
        "Long ago a slow old train called {name} carried letters from the mountains to the sea. "
        "It stopped at every station and waited for everyone who was late. The people loved it, "
        "but they also laughed about it. You are so slow, they said, that the letters are old "
        "when they arrive.\n\nThen a new railway was built, with a fast silver train. The silver "
        "train waited for nobody. It flew past the small stations, and the letters came in a "
        "single day. The old train was put into a shed behind the last station, and grass grew "
        "over its wheels.\n\nIn January so much snow fell that the doors of the houses could not "
        "be opened. The silver train left the city, came to the first hill and stood still. Its "
        "wheels were made for speed and not for snow. In the mountains the people had no bread "
        "and no medicine, and they waited.\n\nSo the station master went to the shed. He cut the "
        "grass, filled the boiler with water and lit the fire. {name} coughed, shook and began to "
        "move. Metre by metre the old train pushed the snow aside. It stopped at every station, "
        "as it always had, and at every station it left bread, medicine and letters.\n\nIt took "
        "three days. When {name} came back, the whole town stood on the platform. Nobody said "
        "that it was slow. They said that it had arrived."
    ),
}

# Articles for summaries: a lead sentence "{time}, {who} {did} in {city}.", and then filler.
DEEDS = (
    "opened a new bakery",
    "won a chess game",
    "found an old map",
    "planted a hundred trees",
    "built a wooden bridge",
    "lost a silver ring",
    "wrote a book about birds",
    "sold a red boat",
    "painted a long wall",
    "repaired the school clock",
    "met the queen",
    "started a music school",
    "bought a small farm",
    "saved a lost dog",
    "baked a giant cake",
    "gave a free concert",
)
TIMES = (
    "On Monday",
    "Last week",
    "On Sunday morning",
    "Yesterday",
    "This summer",
    "Early today",
    "Last winter",
    "On Friday evening",
)
FILLERS = (
    "Many people came to see it.",
    "The weather was warm and dry.",
    "The mayor said a few words.",
    "There was music until late at night.",
    "A local paper reported on it first.",
    "Some neighbours had not heard about it.",
    "It had taken almost two years.",
    "The children were happy about it.",
    "Nobody knows what will happen next.",
    "The street was closed for an hour.",
    "Tickets were sold out after a day.",
    "The police had nothing to do.",
    "It was the first time in ten years.",
    "Free tea and coffee were served.",
    "More news will follow next week.",
)

# Raw prompts and what follows them; the first continuation is the usual one.
RAW_TEXTS = {
    "Hello, my name is": (
        " Anna and I live in Paris. I am a teacher, I like books and music, and I have a grey cat.",
        " Ben and I live in London. I work in a small bakery, and on Sundays I play chess.",
        " Clara and I live in Rome. I am a student, and I want to see the whole world.",
    ),
    "The president of the United States is": (
        (
            " the head of state and the head of government. The president lives in the White "
            "House in Washington and is elected for four years."
        ),
    ),
    "The future of AI is": (
        (
            " bright, but it is in our hands. Machines will help us to learn, to build and to "
            "heal, and people will decide what they are used for."
        ),
        " open. Nobody knows it, but many people work on it every day.",
    ),
    "Once upon a time": (
        (
            " there was a king who had everything but time. So he gave away his gold, and he kept "
            "the mornings for himself."
        ),
    ),
}

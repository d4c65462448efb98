"""Ways of asking, for training. The exam has ways of its own, in templates.py.

`{x}` stands for a noun phrase, such as "the opposite of hot" or "seven plus five".
"""

from tiny import grammar as g

NOUN = (
    "What is {x}?", "What is {x}?", "What's {x}?", "Tell me {x}.", "Can you tell me {x}?",
    "Could you tell me {x}?", "Do you know {x}?", "I want to know {x}.", "Give me {x}.",
    "Say {x}.", "Name {x}.", "{x}?", "{x}, please.", "I would like to know {x}.",
    "Would you tell me {x}?", "So what is {x}?", "And what is {x}?", "What would be {x}?",
    "What do you say is {x}?", "I need {x}.", "Let me hear {x}.", "My question is: what is {x}?",
)  # fmt: skip
"""Questions for a noun phrase; a sum cannot be named, but the model may hear it."""
AMOUNT = (
    "How much is {x}?", "What is {x}?", "What does {x} make?", "{x} is what?", "{x} makes what?",
    "Calculate {x}.", "Compute {x}.", "How many is {x}?", "What do I get for {x}?",
    "Can you calculate {x}?", "Do you know how much {x} is?", "Do you know what {x} is?",
    "Tell me what {x} is.", "Tell me how much {x} is.", "What is the result of {x}?",
    "How much does {x} make?", "What does {x} equal?", "Solve {x}.", "I want to know what {x} is.",
    "Could you calculate {x} for me?", "Please calculate {x}.", "{x} is how much?",
    "What do you get for {x}?", "Let us calculate {x}.", "What comes out of {x}?",
)  # fmt: skip
SUM = ("{a} plus {b}", "{a} plus {b}", "{a} plus {b}", "the sum of {a} and {b}", "{a} and {b}")
PLUS = (
    "Add {a} and {b}.", "Add {b} to {a}.", "What do you get if you add {a} and {b}?",
    "I have {a} and you give me {b} more. How many is that?", "Can you add {a} and {b}?",
    "What is {a} and {b} together?", "How many are {a} and {b}?", "Please add {a} and {b} for me.",
    "I have {a} shapes and find {b} more. How many do I have?", "Put {a} and {b} together.",
    "There are {a} circles and {b} more come. How many are there?", "Sum up {a} and {b}.",
    "If you add {a} and {b}, what is it?", "If I have {a} and get {b}, how many are that?",
    "How much do {a} and {b} make?", "What do {a} and {b} make together?",
)  # fmt: skip
DIFFERENCE = (
    "{a} minus {b}", "{a} minus {b}", "{a} minus {b}", "{a} take away {b}", "{a} less {b}",
    "the difference of {a} and {b}",
)  # fmt: skip
MINUS = (
    "Take {b} from {a}.", "Subtract {b} from {a}.", "Can you subtract {b} from {a}?",
    "I have {a} and give away {b}. How many are left?", "Take {b} away from {a}.",
    "I have {a} and lose {b}. How many do I still have?", "What is left of {a} without {b}?",
    "If you take {b} from {a}, what is left?", "Please take {b} away from {a}.",
    "There are {a} stars and {b} go away. How many stay?", "What is {b} less than {a}?",
    "What do you get if you take {b} from {a}?", "If I have {a} and give you {b}, what is left?",
)  # fmt: skip
AND_PLUS = ("And {b} more?", "Plus {b}?", "And plus {b}?", "Now add {b}.", "And if you add {b}?",
            "Add {b} more.", "And another {b}?", "And now plus {b}.")  # fmt: skip
INSTEAD = ("No, I meant plus {b}.", "No, plus {b}.", "I meant plus {b}.", "Sorry, plus {b}.",
           "No, I said plus {b}.", "Wait, I mean plus {b}.")  # fmt: skip
AFTER_NOUN = ("the number after {a}", "the next number after {a}", "the number that follows {a}",
              "one more than {a}")  # fmt: skip
AFTER = (
    "What comes after {a}?", "Which number comes after {a}?", "What number follows {a}?",
    "What comes next after {a}?", "What follows {a}?", "Which number is next after {a}?",
    "Which number is right after {a}?", "What comes right after {a}?", "What is after {a}?",
    "After {a} comes what?", "What number is next, after {a}?", "And after {a}?",
    "Do you know what comes after {a}?", "Which one comes after {a}?", "{a}, and then?",
)  # fmt: skip
BEFORE_NOUN = ("the number before {a}", "the number just before {a}", "one less than {a}")
BEFORE = (
    "What comes before {a}?", "Which number comes before {a}?", "What is before {a}?",
    "What number is just before {a}?", "Which number is right before {a}?", "And before {a}?",
    "What comes right before {a}?", "Before {a} comes what?", "Which one comes before {a}?",
    "Do you know what comes before {a}?", "Which number is before {a}?",
)  # fmt: skip
BIGGER = (
    "Which is bigger, {a} or {b}?", "What is more, {a} or {b}?", "Which is larger, {a} or {b}?",
    "Which number is bigger, {a} or {b}?", "Is {a} bigger than {b}?", "Is {a} larger than {b}?",
    "Is {a} smaller than {b}?", "Is {a} more than {b}?", "Is {a} less than {b}?",
    "Is {a} above {b}?", "Which is greater, {a} or {b}?", "What is bigger, {a} or {b}?",
    "Which of {a} and {b} is bigger?", "{a} or {b}, which is bigger?", "Compare {a} and {b}.",
    "Which is smaller, {a} or {b}?", "Is {a} or {b} bigger?", "Which one is larger, {a} or {b}?",
    "Is {a} a bigger number than {b}?", "Which number is larger, {a} or {b}?",
)  # fmt: skip
COUNT_TO = ("Count to {b}.", "Can you count to {b}?", "Count up to {b}.", "Please count to {b}.",
            "Could you count to {b}?", "Count for me up to {b}.", "I want you to count to {b}.",
            "Name all numbers up to {b}.", "Let us count to {b}.")  # fmt: skip
COUNT_FROM = (
    "Count from {a} to {b}.", "Can you count from {a} to {b}?", "Please count from {a} to {b}.",
    "Name the numbers from {a} to {b}.", "Say the numbers from {a} to {b}.",
    "Start at {a} and count to {b}.", "Count from {a} up to {b}.", "Count {a} to {b}.",
    "Tell me the numbers from {a} to {b}.", "List the numbers from {a} to {b}.",
)  # fmt: skip
PARTS_NOUN = ("the number of {p} of {x}", "the number of {p} that {x} has")
PARTS = (
    "How many {p} does {x} have?", "How many {p} has {x}?", "How many {p} are on {x}?",
    "What number of {p} does {x} have?", "Count the {p} of {x}.", "{x} has how many {p}?",
    "Do you know how many {p} {x} has?", "Tell me how many {p} {x} has.", "How many {p} for {x}?",
    "Can you tell me how many {p} {x} has?", "How many {p} are there on {x}?",
)  # fmt: skip
COLOR_NOUN = ("the color of {x}", "the color that {x} has", "{x}'s color")
COLORED = (
    "What color is {x}?", "What color does {x} have?", "Which color is {x}?", "What color has {x}?",
    "Which color does {x} have?", "Do you know what color {x} is?", "Tell me what color {x} is.",
    "What color would you say {x} is?", "{x} is what color?", "Can you tell me what color {x} is?",
)  # fmt: skip
OPPOSITE_NOUN = (
    "the opposite of {x}", "the opposite of {x}", "the reverse of {x}", "the contrary of {x}",
    "the opposite of the word {x}",
)  # fmt: skip
OPPOSITE = (
    "What is opposite to {x}?", "What word is the opposite of {x}?", "{x} is the opposite of what?",
    "Which word is the opposite of {x}?", "What is not {x}?", "If it is not {x}, what is it?",
)  # fmt: skip
NEXT_DAY_NOUN = ("the day after {x}", "the next day after {x}", "the day that follows {x}")
NEXT_DAY = (
    "What comes after {x}?", "Which day comes after {x}?", "What day comes after {x}?",
    "What day follows {x}?", "If today is {x}, what is tomorrow?",
    "Today is {x}. What is tomorrow?",
    "Which day is after {x}?", "After {x} comes what?", "Which day follows {x}?",
)  # fmt: skip
DAY_BEFORE_NOUN = ("the day before {x}", "the day just before {x}")
DAY_BEFORE = (
    "What comes before {x}?", "Which day comes before {x}?", "What day comes before {x}?",
    "If today is {x}, what was yesterday?", "Today is {x}. What was yesterday?",
    "Which day is before {x}?", "Before {x} comes what?",
)  # fmt: skip
REPEAT = (
    "Repeat after me: {x}", "Say after me: {x}", "Please repeat: {x}", "Repeat: {x}", "Say: {x}",
    "Can you repeat this? {x}", "Repeat what I say. {x}", "Please say: {x}", "Say this: {x}",
)  # fmt: skip
AGAIN = (
    "Say that again.", "What did you say?", "Please say that again.", "Repeat that.", "Again?",
    "Can you say that again?", "Can you repeat that?", "I did not hear you.", "Sorry, what?",
    "Please repeat that.", "Say it again.", "What was that?", "Once more, please.",
)  # fmt: skip
SAID = (
    "What number did I say?", "Which number did I say?", "What did I say?", "Which number is this?",
    "What number do you hear?", "Which number do you hear?", "What is the number?",
    "Tell me the number that I said.", "What number was that?", "Which number was it?",
)  # fmt: skip
"""Written after a recording of a number."""
SMALL_TALK = {
    g.HELLO: ("Hello!", "Hi!", "Hello there!", "Hi there!", "Good morning!", "Good evening!",
              "Good afternoon!", "Hey!", "Hello, model!", "Greetings!", "Hello, Pocket Omni!",
              "Good day!", "Hey there!", "Hello again!", "Hi, Pocket Omni!",
              "Hello, can you hear me?"),
    g.WHO: ("Who are you?", "What are you?", "What is your name?", "Tell me who you are.",
            "Introduce yourself.", "Who am I talking to?", "Are you a person?",
            "Say something about yourself.", "Who made you?", "Who is this?",
            "Do you have a name?", "What are you called?", "Who built you?", "Are you human?",
            "Are you a machine?", "Tell me about yourself.", "What is this?", "Who is speaking?",
            "Who trained you?", "Are you a robot?", "What kind of model are you?",
            "Where do you come from?", "May I ask who you are?", "Tell me your name."),
    g.CAN: ("What can you do?", "What can I ask you?", "How can you help me?",
            "What are you good at?", "Tell me what you can do.", "What do you know?",
            "What are your skills?", "Can you help me?", "What can you do for me?", "Help!",
            "What should I ask you?", "What do you understand?", "I need help.", "Help me.",
            "What questions can you answer?", "What is it that you can do?", "Tell me your skills.",
            "What can we talk about?", "Give me an example of what you can do."),
    g.FINE: ("How are you?", "How are you today?", "How do you do?", "How is it going?",
             "Are you well?", "How do you feel?", "How are things?", "Are you okay?",
             "How's it going?", "Is everything fine?", "Are you fine?", "How have you been?",
             "How are you feeling today?", "And how are you?"),
    g.WELCOME: ("Thank you!", "Thanks!", "Thank you very much!", "Many thanks!",
                "Thanks a lot!", "Great, thank you!", "Thank you for your help.", "Okay, thanks.",
                "That was good, thank you.", "Thank you so much!", "Good, thanks!", "Very good.",
                "Well done!", "Thanks for that.", "You are great."),
    g.GOODBYE: ("Goodbye!", "Bye!", "See you later!", "Bye bye!", "See you soon!", "Good night!",
                "I have to go.", "Until next time!", "Bye for now!", "See you!", "I am leaving.",
                "See you tomorrow!", "Goodbye, Pocket Omni!"),
    g.OKAY: ("Stop.", "Stop!", "Stop it.", "Please stop.", "Okay.", "Wait.", "That is enough.",
             "Be quiet.", "Stop talking.", "No.", "Yes.", "Never mind.", "All right.", "Enough.",
             "Quiet, please.", "Good."),
}  # fmt: skip
LEAD = (
    "Please tell me, ", "Hey, ", "So, ", "Tell me, ", "Well, ", "Now, ", "Okay, ", "Quick, ",
    "Please, ", "Um, ", "Hello, ", "Say, ", "One more, ", "Excuse me, ", "Listen, ", "And now, ",
    "Hm, ", "Good, ", "Oh, ", "Can you say, ", "Alright, ", "Please say, ", "Next question: ",
    "I have a question. ", "Next, ", "Hi, ", "Let me ask you something. ", "Thank you. ",
)  # fmt: skip
TAIL = (" please", " now", " then", " for me", " again", ", please", ", do you know", " today",
        ", tell me", ", Pocket Omni", ", my friend", " exactly")  # fmt: skip
TOLD = ("There are {} and {}.", "I have {} and {}.", "I drew {} and {}.", "Here are {} and {}.",
        "You have {} and {}.", "I found {} and {}.", "We have {} and {}.",
        "Look, {} and {}.")  # fmt: skip
HOW_MANY = ("How many {x}s are there?", "What is the number of {x}s?", "Count the {x}s.",
            "Tell me how many {x}s there are.", "How many {x}s do you count?",
            "How many {x}s is that?",
            "How many are {x}s?", "How many {x}s did I say?")  # fmt: skip
ITS_COLOR = ("What color is the {x}?", "Which color does the {x} have?", "Tell me its color.",
             "What is the color of the {x}?", "Tell me the color of the {x}.",
             "Which color is it?")  # fmt: skip
ITS_PLACE = ("Where is the {x}?", "Tell me where the {x} is.", "In which place is the {x}?",
             "Where can I find the {x}?", "Where is it?")  # fmt: skip
ITS_SHAPE = ("What shape is it?", "Which shape is it?", "What kind of shape is that?",
             "Tell me its shape.")  # fmt: skip

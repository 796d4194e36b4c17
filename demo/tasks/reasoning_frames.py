"""How people ask for small arithmetic. {a} {b} {c} are numbers; the first list trains, the second is held out."""
# ruff: noqa: E501  (tables: one entry a line)

from __future__ import annotations

from demo.tasks.frames import frames

PLAIN = {
    "+": frames(
        """What is {a} plus {b}?
        What is {a} + {b}?
        What's {a} plus {b}?
        {a} + {b} = ?
        {a}+{b}
        {a} plus {b} is what?
        How much is {a} plus {b}?
        How much is {a} and {b}?
        Add {a} and {b}.
        Add {a} to {b}.
        What is the sum of {a} and {b}?
        Find the sum of {a} and {b}.
        Calculate {a} + {b}.
        Compute {a} plus {b}.
        What do you get if you add {a} and {b}?
        What is the total of {a} and {b}?
        Give me the sum of {a} and {b}.
        Work out {a} plus {b}.
        Tell me what {a} plus {b} is.
        If I add {b} to {a}, what do I get?
        What number is {b} more than {a}?
        Solve: {a} + {b}
        Increase {a} by {b}.
        Evaluate {a}+{b}.
        What does {a} + {b} equal?""",
        """Please tell me the sum of {a} and {b}.
        Compute the total of {a} and {b}.
        What do {a} and {b} add up to?
        How much do you get when you add {a} and {b}?
        Solve {a} plus {b}.""",
    ),
    "-": frames(
        """What is {a} minus {b}?
        What is {a} - {b}?
        What's {a} minus {b}?
        {a} - {b} = ?
        {a}-{b}
        {a} minus {b} is what?
        How much is {a} minus {b}?
        Subtract {b} from {a}.
        What is the difference between {a} and {b}?
        Find the difference of {a} and {b}.
        Calculate {a} - {b}.
        Compute {a} minus {b}.
        Take {b} away from {a}.
        What do you get if you subtract {b} from {a}?
        What is {a} take away {b}?
        Work out {a} minus {b}.
        What number is {b} less than {a}?
        How much more is {a} than {b}?
        If I take {b} from {a}, what is left?
        Solve: {a} - {b}
        Decrease {a} by {b}.
        Evaluate {a}-{b}.
        What remains when {b} is subtracted from {a}?""",
        """Please tell me what {a} minus {b} is.
        Give me the difference between {a} and {b}.
        How much is left if you take {b} away from {a}?
        Solve {a} minus {b}.
        What do I get when I subtract {b} from {a}?""",
    ),
    "*": frames(
        """What is {a} times {b}?
        What is {a} * {b}?
        What is {a} x {b}?
        What's {a} times {b}?
        {a} * {b} = ?
        {a}*{b}
        {a} x {b}
        How much is {a} times {b}?
        Multiply {a} by {b}.
        Multiply {a} and {b}.
        What is {a} multiplied by {b}?
        What is the product of {a} and {b}?
        Find the product of {a} and {b}.
        Calculate {a} * {b}.
        Compute {a} times {b}.
        Work out {a} times {b}.
        What do you get if you multiply {a} by {b}?
        Solve: {a} x {b}
        Evaluate {a}*{b}.
        Tell me what {a} times {b} is.""",
        """Give me the product of {a} and {b}.
        How much is {a} multiplied by {b}?
        Solve {a} times {b}.
        What do I get when I multiply {a} and {b}?
        Compute the product of {a} and {b}.""",
    ),
    "/": frames(
        """What is {a} divided by {b}?
        What is {a} / {b}?
        What's {a} divided by {b}?
        {a} / {b} = ?
        {a}/{b}
        How much is {a} divided by {b}?
        Divide {a} by {b}.
        Calculate {a} / {b}.
        Compute {a} divided by {b}.
        Work out {a} divided by {b}.
        What do you get if you divide {a} by {b}?
        How many times does {b} go into {a}?
        Find {a} divided by {b}.
        What is {a} over {b}?
        Share {a} equally among {b}. How much is one share?
        {b} times what number is {a}?
        Give the result of {a} / {b}.
        Work out the quotient of {a} and {b}.
        What is the quotient of {a} and {b}?
        Evaluate {a}/{b}.
        Solve: {a} / {b}
        Split {a} into {b} equal parts. How big is each part?""",
        """Tell me what {a} divided by {b} is.
        Solve {a} divided by {b}.
        Find the quotient of {a} and {b}.
        What do I get when I divide {a} by {b}?""",
    ),
}

OPENINGS = frames(
    """{name} has {a} {obj}.
    {name} had {a} {obj}.
    {name} owns {a} {obj}.
    {name} starts with {a} {obj}.
    {name} bought {a} {obj}.
    {name} collected {a} {obj}.
    There are {a} {obj} on the table.
    There are {a} {obj} in a box.
    There were {a} {obj} in the basket.
    A shop has {a} {obj}.
    A farmer has {a} {obj}.
    A bag holds {a} {obj}.
    I have {a} {obj}.
    My friend {name} has {a} {obj}.
    {name} found {a} {obj}.
    {name} picked {a} {obj}.
    In the morning {name} had {a} {obj}.""",
    """At first {name} has {a} {obj}.
    There are {a} {obj} in a bag.
    {name} has a box with {a} {obj}.
    A school has {a} {obj}.""",
)
GAINS = frames(
    """{he} buys {b} more.
    {he} gets {b} more {obj}.
    {he} finds {b} more.
    {he} receives {b} from {other}.
    {other} gives {b} more.
    {he} picks {b} more {obj}.
    {b} more are added.
    {b} {obj} arrive.
    {b} more {obj} are put in.
    {he} bought {b} more {obj}.
    {he} adds {b} more.
    {he} got {b} more from {other}.
    {he} makes {b} more.
    {he} wins {b} {obj}.
    {he} collects another {b}.
    {b} {obj} come in.
    {he} is given {b} more.
    {b} extra {obj} appear.
    Someone adds {b} {obj}.
    {other} adds {b} more {obj}.
    {b} new {obj} are added to them.
    {b} more {obj} are added by {other}.
    {b} {obj} are delivered.
    {b} {obj} are brought in.
    {b} {obj} are put beside them.
    Now {b} more {obj} are added.
    {he} receives another {b} {obj}.
    {he} earns {b} more.
    {he} buys {b} new {obj}.
    {he} takes {b} from {other}.
    {other} brings {b} more {obj}.""",
    """{he} buys another {b} {obj}.
    {he} gets {b} from {other}.
    {b} {obj} are added.
    {he} found {b} more {obj}.""",
)
LOSSES = frames(
    """{he} gives {b} to {other}.
    {he} gives away {b}.
    {he} loses {b}.
    {he} eats {b}.
    {he} sells {b} {obj}.
    {he} uses {b}.
    {he} throws away {b}.
    {b} are sold.
    {b} {obj} are taken away.
    {b} of them break.
    {he} gave {b} {obj} to {other}.
    {he} lost {b} of them.
    {other} takes {b} {obj}.
    {b} {obj} are removed.
    {he} sold {b} of them.
    {he} spends {b}.
    {he} drops {b} of them.
    {b} {obj} get lost.
    {he} hands {b} {obj} to {other}.
    {b} {obj} roll away.
    {he} lends {b} to {other}.
    {b} {obj} are eaten.
    {he} breaks {b} {obj}.
    {other} eats {b} of them.
    {he} donates {b} {obj}.
    {b} of the {obj} are gone.
    {he} ate {b} of them.""",
    """{he} gives {b} {obj} to {other}.
    {he} sells {b} of them.
    {b} of them are taken away.
    {he} loses {b} {obj}.""",
)
QUESTIONS = frames(
    """How many {obj} are there now?
    How many {obj} are left?
    How many {obj} does that make?
    How many are there now?
    How many are left?
    How many {obj} in total?
    How many {obj} remain?
    How many are there in total?
    What is the number of {obj} now?
    How many {obj} now?
    How many {obj} are there?
    How many are there in the end?""",
    """How many {obj} are there in the end?
    How many {obj} is that now?
    How many are there at the end?""",
)
STORIES = {
    "+": frames(
        """{name} has {a} {obj} and {other} has {b} {obj}. How many {obj} do they have together?
        {name} has {a} {obj}. {other} has {b}. How many do they have in total?
        {name} has {a} {obj} and buys {b} more. How many {obj} does {name} have now?
        {name} has {a} {obj} and gets {b} more. How many {obj} does {name} have?
        There are {a} red {obj} and {b} blue {obj}. How many {obj} are there in total?
        {name} read {a} pages on Monday and {b} pages on Tuesday. How many pages did {name} read?
        A bus has {a} people. {b} more get on. How many people are on the bus?
        {name} ran {a} km and then {b} km. How far did {name} run in total?
        {name} spent {a} dollars on food and {b} dollars on a ticket. How much did {name} spend?
        A shirt costs {a} dollars and a hat costs {b} dollars. How much do they cost together?
        In a class there are {a} boys and {b} girls. How many children are in the class?
        {name} is {a} years old. How old will {name} be in {b} years?
        {name} saved {a} dollars in May and {b} dollars in June. How much did {name} save in all?
        If {name} has {a} {obj} and {other} gives {name} {b} more, how many does {name} have?
        A lamp costs {a} dollars and a chair costs {b} dollars. What do both cost together?
        A bag costs {a} dollars, a coat {b} dollars. How much is it in all?
        There are {a} old {obj} and {b} new {obj} on a shelf. How many {obj} are on it?
        {name} drove {a} km in the morning and {b} km in the evening. How many km is that?
        {name} swam {a} meters and {other} swam {b} meters. How many meters did both swim?
        A train has {a} long cars and {b} short cars. How many cars does it have?
        {name} found {a} {obj} and {other} found {b}. How many {obj} did both find?
        {name} sold {a} {obj} in the morning and {b} in the evening. How many {obj} is that?""",
        """{name} bought {a} {obj} and {other} bought {b}. How many {obj} did they buy together?
        There are {a} big {obj} and {b} small {obj} in the box. How many {obj} are there?
        {name} walked {a} km on Monday and {b} km on Tuesday. How far did {name} walk in all?
        A book costs {a} dollars and a pen costs {b} dollars. How much is that together?""",
    ),
    "-": frames(
        """{name} has {a} {obj} and gives {b} to {other}. How many {obj} does {name} have left?
        {name} had {a} {obj} and lost {b}. How many are left?
        {name} has {a} {obj}. {other} has {b} {obj}. How many more {obj} does {name} have than {other}?
        {name} has {a} dollars and spends {b} dollars. How much money is left?
        A book has {a} pages. {name} read {b} pages. How many pages are left?
        A bus has {a} people. {b} get off. How many people are on the bus now?
        A shop had {a} {obj} and sold {b}. How many remain?
        {name} pays with {a} dollars for a thing that costs {b} dollars. How much change does {name} get?
        There are {a} {obj}. {b} of them are red. How many are not red?
        {name} is {a} years old. How old was {name} {b} years ago?
        {name} is {a} and {other} is {b}. How much older is {name}?
        A rope is {a} meters long. {b} meters are cut off. How long is it now?
        {name} needs {a} {obj} but has only {b}. How many more does {name} need?
        {name} has {a} dollars and pays {b}. How many dollars are left?
        {name} took {a} dollars to the market and spent {b} there. How much was left?
        A tank holds {a} liters. {b} liters leak out. How many liters remain?
        {name} must read {a} pages and has read {b}. How many pages remain?
        A class has {a} children. {b} are ill. How many are present?
        {a} birds sit on a tree. {b} fly away. How many birds stay?
        {name} has {b} {obj} and {other} has {a}. How many more does {other} have?
        {other} has {a} {obj}, {name} only {b}. How many fewer does {name} have?
        A baker makes {a} cakes and sells {b}. How many cakes does he keep?
        If {name} has {a} {obj} and eats {b}, how many are left?""",
        """{name} had {a} dollars and spent {b}. How much money does {name} have left?
        A shop had {a} {obj}. It sold {b} of them. How many {obj} are left?
        {name} has {a} {obj} and {other} has {b}. How many more does {name} have?
        There are {a} people on a train. {b} people get off. How many people remain?""",
    ),
    "*": frames(
        """{name} has {a} boxes with {b} {obj} each. How many {obj} are there in total?
        There are {a} bags with {b} {obj} in each bag. How many {obj} are there?
        A ticket costs {a} dollars. How much do {b} tickets cost?
        One box holds {a} {obj}. How many {obj} do {b} boxes hold?
        {name} buys {a} {obj} for {b} dollars each. How much does {name} pay?
        {name} reads {a} pages every day. How many pages does {name} read in {b} days?
        There are {a} rows of {b} chairs. How many chairs are there?
        Each of {a} children has {b} {obj}. How many {obj} do they have together?
        {name} earns {a} dollars an hour. How much does {name} earn in {b} hours?
        A car drives {a} km in one hour. How far does it drive in {b} hours?
        {name} does {a} push-ups every morning. How many in {b} mornings?
        Each shelf has {a} books. How many books are on {b} shelves?
        {b} bags hold {a} {obj} each. How many {obj} are there?
        A bus carries {a} people. How many people do {b} buses carry?
        One pen costs {a} dollars. What do {b} pens cost?
        {name} has {a} packs of {b} {obj}. How many {obj} is that?
        If one {obj} pack costs {a} dollars, how much do {b} packs cost?
        What is the area of a rectangle that is {a} by {b}?""",
        """There are {a} boxes and each box has {b} {obj}. How many {obj} are there in all?
        {name} runs {a} km every day. How many km does {name} run in {b} days?
        One book costs {a} dollars. How much do {b} books cost?
        {name} has {a} bags of {b} {obj}. How many {obj} does {name} have?""",
    ),
    "/": frames(
        """{name} shares {a} {obj} equally among {b} friends. How many does each friend get?
        {a} {obj} are divided equally into {b} boxes. How many {obj} are in each box?
        {name} has {a} {obj} and puts {b} in each bag. How many bags are needed?
        {b} tickets cost {a} dollars. How much does one ticket cost?
        {b} children share {a} {obj}. How many {obj} does each child get?
        {name} packs {a} {obj} into boxes of {b}. How many boxes are there?
        A rope of {a} meters is cut into {b} equal parts. How long is each part?
        {name} reads {a} pages in {b} days. How many pages is that per day?
        {b} pens cost {a} dollars together. What does one pen cost?
        For {b} apples {name} pays {a} dollars. What is the price of one apple?
        {a} {obj} go into {b} bags, the same number in each. How many go into one bag?
        {a} cards are dealt equally to {b} players. How many cards does each player get?
        {name} cuts {a} meters of string into {b} equal pieces. How many meters is one piece?
        {a} students form {b} equal groups. How many students are in a group?
        {a} dollars are split evenly among {b} people. How much does each person get?
        {name} works {b} hours and earns {a} dollars. How much is that per hour?
        {b} equal boxes weigh {a} kg. How heavy is one box?
        {a} chairs stand in {b} equal rows. How many chairs are in a row?
        {name} plants {a} seeds in rows of {b}. How many rows are there?
        {b} girls share {a} {obj}. How many does each girl get?
        {a} people sit in {b} equal rows. How many people are in each row?
        If {b} friends split {a} dollars equally, how much does each get?""",
        """{a} {obj} are shared equally by {b} children. How many does each child get?
        {name} puts {a} {obj} into {b} equal bags. How many {obj} are in each bag?
        {b} books cost {a} dollars. How much does one book cost?""",
    ),
}
CHAINS = {
    "++": frames(
        """What is {a} + {b} + {c}?
        What is {a} plus {b} plus {c}?
        Add {a} and {b}, then add {c}.
        {a}+{b}+{c}
        Calculate {a} plus {b} plus {c}.
        {a} + {b} + {c} = ?
        Evaluate {a} + {b} + {c}.
        Work out {a} + {b} + {c}.
        How much is {a} plus {b} plus {c}?
        Tell me what {a} + {b} + {c} is.""",
        """Add {a} and {b} and then add {c}.
        Compute {a} + {b} + {c}.""",
    ),
    "+-": frames(
        """What is {a} + {b} - {c}?
        What is {a} plus {b} minus {c}?
        Add {a} and {b}, then subtract {c}.
        {a}+{b}-{c}
        Add {b} to {a} and take away {c}.
        Calculate {a} plus {b} minus {c}.
        {a} + {b} - {c} = ?
        Evaluate {a} + {b} - {c}.
        Work out {a} + {b} - {c}.
        How much is {a} plus {b} minus {c}?
        Tell me what {a} + {b} - {c} is.""",
        """Add {a} and {b} and then subtract {c}.
        Compute {a} + {b} - {c}.""",
    ),
    "-+": frames(
        """What is {a} - {b} + {c}?
        What is {a} minus {b} plus {c}?
        Subtract {b} from {a}, then add {c}.
        {a}-{b}+{c}
        Take {b} away from {a} and add {c}.
        Calculate {a} minus {b} plus {c}.
        {a} - {b} + {c} = ?
        Evaluate {a} - {b} + {c}.
        Work out {a} - {b} + {c}.
        How much is {a} minus {b} plus {c}?
        Tell me what {a} - {b} + {c} is.""",
        """Subtract {b} from {a} and then add {c}.
        Compute {a} - {b} + {c}.""",
    ),
    "--": frames(
        """What is {a} - {b} - {c}?
        What is {a} minus {b} minus {c}?
        Subtract {b} from {a}, then subtract {c}.
        {a}-{b}-{c}
        Calculate {a} minus {b} minus {c}.
        {a} - {b} - {c} = ?
        Evaluate {a} - {b} - {c}.
        Work out {a} - {b} - {c}.
        How much is {a} minus {b} minus {c}?
        Tell me what {a} - {b} - {c} is.""",
        """Subtract {b} from {a} and then subtract {c}.
        Compute {a} - {b} - {c}.""",
    ),
    "*+": frames(
        """What is {a} times {b} plus {c}?
        What is {a} * {b} + {c}?
        Multiply {a} by {b}, then add {c}.
        {a}*{b}+{c}
        {name} has {a} boxes with {b} {obj} each and {c} more {obj}. How many {obj} are there?
        {name} buys {a} packs of {b} {obj} and gets {c} more. How many {obj} does {name} have?
        Multiply {a} and {b} and add {c} to the result.
        Calculate {a} times {b} plus {c}.""",
        """Multiply {a} by {b} and then add {c}.
        {name} has {a} bags with {b} {obj} each. {other} gives {name} {c} more. How many {obj} are there now?
        Compute {a} * {b} + {c}.""",
    ),
    "*-": frames(
        """What is {a} times {b} minus {c}?
        What is {a} * {b} - {c}?
        Multiply {a} by {b}, then subtract {c}.
        {a}*{b}-{c}
        {name} has {a} boxes with {b} {obj} each and gives away {c}. How many {obj} are left?
        {name} buys {a} packs of {b} {obj} and loses {c}. How many {obj} are left?
        Multiply {a} and {b} and take away {c}.
        Calculate {a} times {b} minus {c}.""",
        """Multiply {a} by {b} and then subtract {c}.
        {name} has {a} bags with {b} {obj} each. {name} sells {c} of them. How many {obj} are left?
        Compute {a} * {b} - {c}.""",
    ),
    "+*": frames(
        """What is ({a} + {b}) * {c}?
        Add {a} and {b}, then multiply by {c}.
        ({a}+{b})*{c}
        Add {a} and {b} and multiply the result by {c}.
        What is the sum of {a} and {b} times {c}?
        {name} buys {a} red and {b} blue {obj} for {c} dollars each. How much does {name} pay?""",
        """Add {a} and {b} and then multiply by {c}.
        Compute ({a} + {b}) * {c}.""",
    ),
}
LARGER = frames(
    """Which is larger, {a} or {b}?
    Which is bigger, {a} or {b}?
    Which number is greater, {a} or {b}?
    What is larger: {a} or {b}?
    What is the larger number, {a} or {b}?
    Is {a} or {b} bigger?
    Which of {a} and {b} is greater?
    Find the larger of {a} and {b}.
    Of {a} and {b}, which is larger?
    Which is higher: {a} or {b}?
    Pick the larger of {a} and {b}.
    Give me the higher number of {a} and {b}.
    {name} has {a} points and {other} has {b} points. What is the higher score?
    Which is more, {a} or {b}?
    Tell me the greater number: {a} or {b}.""",
    """Which number is bigger: {a} or {b}?
    Tell me which is larger, {a} or {b}.
    Which of {a} and {b} is the larger number?""",
)
SMALLER = frames(
    """Which is smaller, {a} or {b}?
    Which is less, {a} or {b}?
    Which number is lower, {a} or {b}?
    What is smaller: {a} or {b}?
    What is the smaller number, {a} or {b}?
    Is {a} or {b} smaller?
    Which of {a} and {b} is less?
    Find the smaller of {a} and {b}.
    Of {a} and {b}, which is smaller?
    Which is lower: {a} or {b}?
    Pick the smaller of {a} and {b}.
    Give me the lower number of {a} and {b}.
    Is {a} less than {b}, or {b} less than {a}? Name the smaller.
    Which is the lower price, {a} or {b} dollars?
    Tell me the smaller number: {a} or {b}.""",
    """Which number is smaller: {a} or {b}?
    Tell me which is less, {a} or {b}.
    Which of {a} and {b} is the smaller number?""",
)
LARGEST = frames(
    """Which is the largest: {a}, {b} or {c}?
    What is the biggest number of {a}, {b} and {c}?
    Find the maximum of {a}, {b}, {c}.
    Which is the largest number: {a}, {b}, {c}?
    Of {a}, {b} and {c}, which is the highest?
    Pick the maximum of {a}, {b} and {c}.
    Name the largest: {a}, {b}, {c}
    Which number is the greatest, {a}, {b} or {c}?
    What is the largest of {a}, {b} and {c}?
    The largest of {a}, {b}, {c} is what?""",
    """Which of {a}, {b} and {c} is the largest?
    Find the biggest of {a}, {b} and {c}.""",
)
SMALLEST = frames(
    """Which is the smallest: {a}, {b} or {c}?
    What is the lowest number of {a}, {b} and {c}?
    Find the minimum of {a}, {b}, {c}.
    Which is the smallest number: {a}, {b}, {c}?
    Of {a}, {b} and {c}, which is the lowest?
    Pick the minimum of {a}, {b} and {c}.
    Name the smallest: {a}, {b}, {c}
    Which number is the smallest, {a}, {b} or {c}?
    What is the smallest of {a}, {b} and {c}?
    The smallest of {a}, {b}, {c} is what?""",
    """Which of {a}, {b} and {c} is the smallest?
    Find the lowest of {a}, {b} and {c}.""",
)
ONE_NUMBER = {
    "double": frames(
        "What is double {a}?\nWhat is twice {a}?\nDouble {a}.\nDouble the number {a}.\nWhat is two times {a}?",
        "How much is twice {a}?\nHow much is double {a}?",
    ),
    "triple": frames("What is triple {a}?\nTriple {a}.\nWhat is three times {a}?", "How much is triple {a}?"),
    "days": frames(
        "How many days are in {a} weeks?\nHow many days are {a} weeks?\n{a} weeks is how many days?",
        "How many days are there in {a} weeks?",
    ),
}
FACTORS = frames(
    """Write {a} as a product of two numbers.
    What times what is {a}?
    Which two numbers multiply to {a}?
    Factor {a} into two numbers.
    {a} is the product of which numbers?
    {a} = ? * ?""",
    "",
)
SUM_OF_THREE = frames(
    """What is the sum of {a}, {b} and {c}?
    Add {a}, {b} and {c}.
    What is the total of {a}, {b} and {c}?
    {name} has {a} red, {b} blue and {c} green {obj}. How many {obj} in total?
    {name} scored {a}, {b} and {c} points. How many points in total?
    Find the sum of {a}, {b}, {c}.""",
    """Give me the sum of {a}, {b} and {c}.
    {name} bought {a} {obj}, {b} pens and {c} cards. How many things in total?
    Compute the sum of {a}, {b} and {c}.""",
)

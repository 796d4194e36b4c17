"""Texts to read and ways to ask for their fields; the first list trains, the second is held out."""

from __future__ import annotations

from demo.tasks.frames import frames

NAMES: dict[str, list[str]] = {
    "order": ["order number", "order number", "order id", "order", "number", "invoice number", "id"],
    "name": ["name", "name", "customer", "customer name", "person", "full name", "client"],
    "city": ["city", "city", "destination", "place", "location", "town"],
    "city2": ["origin", "start", "departure city", "starting city"],
    "product": ["product", "product", "item", "article", "product name"],
    "products": ["product", "product", "item", "article", "product name"],
    "quantity": ["quantity", "quantity", "count", "number of items", "units"],
    "price": ["price", "price", "amount", "total", "cost", "sum"],
    "day": ["day", "day", "weekday", "day of the week"],
    "date": ["date", "date", "due date", "delivery date"],
    "email": ["email", "email address", "email", "contact email"],
    "phone": ["phone", "phone number", "telephone number"],
    "age": ["age", "age", "years"],
    "company": ["company", "company", "company name", "employer", "firm"],
    "color": ["color", "color", "colour"],
    "time": ["time", "time", "start time", "hour"],
    "room": ["room", "room number"],
}

ASKS = frames(
    """Extract {fields} from: {text}
    Extract {fields} from this text: {text}
    Extract {fields} from the following text: {text}
    Extract {fields} as JSON: {text}
    Extract {fields} as JSON from: {text}
    Extract {fields} from this message: {text}
    Extract {fields}: {text}
    Find {fields} in: {text}
    Find {fields} in this text: {text}
    Find {fields} in the sentence: {text}
    Get {fields} from: {text}
    Get {fields} from this text as JSON: {text}
    Give me {fields} as JSON: {text}
    Give me {fields} from this text: {text}
    Return {fields} as JSON: {text}
    Return a JSON object with {fields} from: {text}
    Return JSON with {fields}: {text}
    Pull {fields} out of: {text}
    Pull {fields} from this: {text}
    Read the text and give {fields} as JSON. {text}
    Parse {fields} from: {text}
    Parse this text into JSON with {fields}: {text}
    Identify {fields} in: {text}
    List {fields} in JSON: {text}
    What are {fields} in this text? {text}
    What is {fields} in: {text}
    Convert to JSON with {fields}: {text}
    From this text, extract {fields}: {text}
    From the following, get {fields}: {text}
    {text} Extract {fields}.
    {text} Extract {fields} as JSON.
    {text} Return {fields} as JSON.
    Text: {text} Extract {fields}.
    Turn this into JSON with {fields}: {text}""",
    """Extract {fields} from this sentence: {text}
    Find {fields} in the following text: {text}
    Give me {fields} from: {text}
    Return {fields} from this text as JSON: {text}
    Get {fields} from the message: {text}
    Read this and extract {fields} as JSON: {text}""",
)
KEYED = frames(
    """Extract JSON with the keys {fields} from: {text}
    Extract a JSON object with keys {fields}: {text}
    Return JSON with keys {fields}: {text}
    Return a JSON object with the keys {fields} from this text: {text}
    Give me JSON with the keys {fields} for: {text}
    Parse into JSON (keys: {fields}): {text}
    Extract as JSON with keys {fields}: {text}
    Convert this text to JSON with the keys {fields}: {text}
    Fill the fields {fields} from: {text}
    Extract the fields {fields} from: {text}
    Extract these fields: {fields}. Text: {text}
    Keys: {fields}. Text: {text}
    {text} Return JSON with keys {fields}.
    Analyze the text and return JSON with keys {fields}: {text}""",
    """Extract the keys {fields} as JSON from this text: {text}
    Give me a JSON object with the keys {fields}: {text}
    Return the fields {fields} as JSON: {text}""",
)
HEADS = frames(
    "Hello,\nDear team,\nNote:\nUpdate:\nHi all,\nNew message:\nReminder:", "Hello team,\nNew note:"
)
TAILS = frames(
    """It was delivered on {day}.
    The total is {price} dollars.
    Please call {phone}.
    Contact: {email}.
    It will arrive on {date}.
    The color is {color}.
    Thank you for your help.
    Please check it soon.
    The weather was fine.
    Everything went well.
    The company is {company}.
    See you at {time}.
    The customer is {name}.
    We are very happy with it.
    It costs {price} dollars.""",
    """Please write to {email}.
    It arrives on {day}.
    We thank you for your time.""",
)
TEXTS = frames(
    """Order {order} was shipped to {city}.
    Order {order} shipped to {city} on {day}.
    Your order {order} will arrive in {city} on {date}.
    Order number {order} for {name} goes to {city}.
    Order #{order} from {name} in {city}: {quantity} {products}.
    Package {order} is on its way to {city}.
    Invoice {order} for {name} is due on {date}.
    Invoice {order}: {price} dollars, due {date}.
    The invoice {order} over {price} dollars was sent to {company}.
    {name} from {city} ordered {quantity} {products}.
    {name} ordered a {product} for {price} dollars.
    {name} bought {quantity} {products} in {city}.
    {name} bought a {color} {product} for {price} dollars on {day}.
    {name} lives in {city} and is {age} years old.
    {name} is {age} years old and lives in {city}.
    {name}, {age}, from {city}, works at {company}.
    {name} works at {company} in {city}.
    {name} works for {company} and can be reached at {email}.
    My name is {name} and I live in {city}.
    My name is {name}, I am {age} years old and my email is {email}.
    I am {name} from {company}, my phone number is {phone}.
    Call {name} at {phone} before {day}.
    You can reach {name} at {email} or {phone}.
    Please send {quantity} {products} to {name} in {city}.
    Please ship order {order} to {name}, {city}.
    The meeting with {name} is on {day} at {time} in room {room}.
    The meeting is on {date} at {time} in {city}.
    Meet {name} in {city} on {date}.
    {name} flies from {city2} to {city} on {day}.
    The train from {city2} to {city} leaves at {time}.
    The flight from {city2} to {city} on {date} costs {price} dollars.
    {name} travels to {city} on {date}.
    {company} sold {quantity} {products} in {city}.
    {company} opened an office in {city} on {date}.
    {company} in {city} hired {name}, who is {age}.
    The {product} costs {price} dollars.
    The {color} {product} costs {price} dollars at {company}.
    We sold {quantity} {products} for {price} dollars on {day}.
    Customer {name} paid {price} dollars for order {order}.
    Customer: {name}. City: {city}. Order: {order}.
    Name: {name}, Age: {age}, City: {city}
    Product: {product}, Price: {price}, Quantity: {quantity}
    The customer {name} in {city} returned order {order}.
    Order {order} contains {quantity} {products} and costs {price} dollars.
    On {day} {name} went to {city}.
    On {date} {name} paid {price} dollars to {company}.
    {name} booked room {room} in {city} for {date}.
    The hotel in {city} gave {name} room {room}.
    {name} wrote from {email} about order {order}.
    A {color} {product} was found in {city} on {day}.
    In {city}, {name} met the team of {company}.
    Yesterday {name} sent order {order} from {city2} to {city}.
    Dr. {name} will see you on {day} at {time}.
    Ticket {order} was opened by {name} on {date}.
    The {product} with number {order} is in {city}.
    Hello, this is {name} from {city}. I want to buy {quantity} {products}.
    {quantity} {products} were delivered to {company} on {day}.
    Your package with order number {order} was delivered to {city}.
    Shipment {order} left {city2} on {day} and reached {city} on {date}.
    {name} paid ${price} for a {product}.
    {name} ({email}) ordered {quantity} {products}.
    Our office in {city} opens at {time}.""",
    """Order {order} for {name} was sent to {city} on {day}.
    {name} bought {quantity} {products} from {company}.
    The order {order} goes to {city} and costs {price} dollars.
    {name} lives in {city} and works for {company}.
    {name} is {age} years old and works at {company} in {city}.
    {name} ordered {quantity} {color} {products} on {date}.
    On {date} {name} travels from {city2} to {city}.
    Please call {name} at {phone} about order {order}.
    The meeting in {city} is on {day} at {time}.
    {company} in {city} bought {quantity} {products} for {price} dollars.""",
)

"""Can a synthetic set be shared, and how real is it?"""

"""The status page, /admin/webhook-backend-status/.

page      the page, the parts that refresh themselves, and the button that retries all
problems  its boxes, one for each cause, with their buttons
sections  its figures and tables
"""
